//! What a running Seawall says of itself: the shape of `/api/status`, and the table that `seawall status` makes of it.

mod command;
mod gather;
mod shape;
mod table;

pub use command::{StatusArgs, run};
pub use gather::gather;
pub use shape::{
    Breaker, Budget, Bulkhead, Certificate, Change, Config, Endpoint, Event, Limit, Listener, Mode, Reason,
    Route, Service, Status,
};
pub(crate) use shape::{Happened, count, seconds};
pub use table::render;
