//! x
use gateway::{Gateway, config::*};
fn main() {
    let listen = std::env::args().nth(1).unwrap();
    let to: Vec<String> = std::env::args().nth(2).unwrap().split(',').map(str::to_owned).collect();
    let mut config = Config { workers: 1, ..Config::default() };
    config.listeners.push(Listener::at(listen.parse().unwrap()));
    config.routes.push(Route { service: Some("b".into()), ..Route::default() });
    config.services.insert(
        "b".into(),
        Service {
            endpoints: to.into_iter().map(|address| EndpointParams { address, weight: 1 }).collect(),
            ..Service::default()
        },
    );
    let gw = Gateway::build(config).unwrap();
    println!("listening on {:?}", gw.listeners());
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    rt.block_on(gw.run()).unwrap();
}
