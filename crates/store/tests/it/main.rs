//! The store on real files and a real PostgreSQL.

mod backups;
mod faults;
mod kill;
mod opening;
mod postgres;
mod probe;
mod suite;
