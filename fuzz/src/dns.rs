use std::sync::Arc;

use coord::dns::{DnsParams, Known, Over, Zone};
use model::Registered;

/// A question to the name server: whatever it is, the answer fits its transport, is an answer to just that question, and is
/// itself answered with silence, so that two name servers cannot be made to talk to one another.
///
/// # Panics
/// When the name server breaks one of these promises.
pub fn dns_question(data: &[u8]) {
    let zone = Zone::new(&DnsParams::default()).expect("the default domain is a name");
    let instances: Arc<[Arc<Registered>]> = (0..80u16).map(instance).collect();
    let look_up = |service: &str| match service {
        "cart" => Known::Instances(Arc::clone(&instances)),
        "silent" => Known::Nothing,
        _ => Known::Nobody,
    };
    for (over, most) in [(Over::Udp, 1232), (Over::Tcp, 65_535)] {
        let mut rng = fastrand::Rng::with_seed(7);
        let Some(answer) = zone.answer(data, over, look_up, &mut rng) else { continue };
        assert!((12..=most).contains(&answer.len()), "{} bytes", answer.len());
        assert_eq!(answer[..2], data[..2], "another id");
        assert!(answer[2] & 0x80 != 0 && data[2] & 0x80 == 0, "an answer to an answer");
        assert_eq!(zone.answer(&answer, over, look_up, &mut rng), None, "an answer is answered");
    }
}

fn instance(number: u16) -> Arc<Registered> {
    let ip = match number % 2 {
        0 => [10, 0, 0, number as u8].into(),
        _ => std::net::IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, number]),
    };
    Arc::new(Registered {
        name: format!("i{number}"),
        address: (ip, 8_000 + number).into(),
        weight: number.into(),
        zone: None,
        version: None,
        lame_duck: number.is_multiple_of(7),
    })
}
