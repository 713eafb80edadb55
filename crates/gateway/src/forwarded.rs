use crate::codec::Field;
use crate::config::IpNet;
use std::io::Write;
use std::net::IpAddr;
pub fn client_address(peer: IpAddr, _t: bool, _n: &[IpNet], _f: &[Field<'_>]) -> IpAddr {
    peer
}
pub fn write(peer: IpAddr, _t: bool, host: &str, _f: &[Field<'_>], out: &mut Vec<u8>) {
    let _ = write!(out, "x-forwarded-for: {peer}\r\nx-forwarded-host: {host}\r\nx-forwarded-proto: http\r\n");
}
