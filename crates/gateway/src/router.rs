use crate::config;
pub struct Router { routes: Vec<CompiledRoute> }
pub enum NotFound { NoRoute, MethodNotAllowed(String) }
pub struct Query<'a> { pub host: &'a str, pub method: &'a str, pub path: &'a str, pub query: Option<&'a str>, pub header: &'a dyn Fn(&str) -> Option<&'a [u8]> }
#[derive(Default)] pub struct Captures;
pub struct Found<'r> { pub route: &'r CompiledRoute, pub captures: Captures }
pub enum CompiledAction { Service(usize), Split(Vec<usize>), Redirect(R), Answer(A) }
pub struct R; pub struct A;
impl R { pub fn write(&self, _p: &str, _q: Option<&str>, _c: &Captures, _o: &mut Vec<u8>) -> u16 { 308 } }
impl A { pub fn write(&self, _h: bool, _o: &mut Vec<u8>) -> u16 { 200 } }
pub struct CompiledRoute { pub index: usize, pub name: String, pub action: CompiledAction, pub host: Option<String>, pub request_fields: Vec<u8> }
impl CompiledRoute {
  pub fn removes_request_field(&self, _n: &[u8]) -> bool { false }
  pub fn changes_response(&self) -> bool { false }
  pub fn removes_response_field(&self, _n: &[u8]) -> bool { false }
  pub fn response_fields(&self) -> &[u8] { b"" }
  pub fn write_path(&self, p: &str, _c: &Captures, o: &mut Vec<u8>) { o.extend_from_slice(p.as_bytes()) }
}
impl Router {
  pub fn build(routes: &[config::Route], f: impl Fn(&str) -> Option<usize>) -> Result<Self, Vec<config::Problem>> {
    Ok(Self { routes: routes.iter().enumerate().map(|(index, r)| CompiledRoute { index, name: format!("r{index}"), action: CompiledAction::Service(f(r.service.as_deref().unwrap()).unwrap()), host: None, request_fields: vec![] }).collect() })
  }
  pub fn routes(&self) -> &[CompiledRoute] { &self.routes }
  pub fn find(&self, _q: &Query<'_>) -> Result<Found<'_>, NotFound> { self.routes.first().map(|route| Found { route, captures: Captures }).ok_or(NotFound::NoRoute) }
}
pub mod path { pub fn normalise(_p: &str, _o: &mut String) -> Result<Option<()>, ()> { Ok(None) } }
