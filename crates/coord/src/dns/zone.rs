use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, SOA, SRV};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use model::Registered;

use super::DnsParams;

/// Instances in one answer; of more, a share drawn by weight. 256 SRV records with their addresses take 20 KiB.
const ANSWERS_MAX: usize = 256;
/// What an answer over UDP may take when the question says nothing else (RFC 1035), and at most: what passes networks
/// without being cut into pieces (DNS flag day 2020).
const UDP: (u16, u16) = (512, 1232);
/// The label under which names spell addresses.
const ADDR: &str = "addr";

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// In a datagram: what does not fit is cut off and marked.
    Udp,
    /// On a connection.
    Tcp,
}

/// What is known of a service.
#[derive(Clone, Debug)]
pub enum Known {
    /// The registry was not heard yet.
    Nothing,
    /// It has no instance.
    Nobody,
    /// These.
    Instances(Arc<[Arc<Registered>]>),
}

/// The names below one domain: bytes of a question in, bytes of its answer out.
#[derive(Clone, Debug)]
pub struct Zone {
    domain: Name,
    ttl: u32,
}

/// What a question asks about.
enum Subject {
    Apex,
    Service(String),
    ServiceSrv(String),
    Address(IpAddr),
    /// A name that exists only because there are names below it.
    Between,
    Unknown,
}

impl Zone {
    /// None when the domain is no name.
    #[must_use]
    pub fn new(params: &DnsParams) -> Option<Self> {
        let text = params.domain.strip_suffix('.').unwrap_or(&params.domain);
        let plain = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        };
        // So that every name below it fits: a service's label with two more, or an IPv6 address in hexadecimal.
        if text.len() > 128 || !text.split('.').all(plain) {
            return None;
        }
        let domain = Name::from_ascii(format!("{}.", text.to_ascii_lowercase())).ok()?;
        Some(Self { domain, ttl: u32::try_from(params.ttl.get().as_secs()).unwrap_or(1) })
    }

    /// The answer to the bytes of a question; none when they are no question: then silence is the answer, so that two name
    /// servers cannot be made to talk to one another.
    pub fn answer(
        &self,
        question: &[u8],
        over: Over,
        look_up: impl Fn(&str) -> Known,
        rng: &mut fastrand::Rng,
    ) -> Option<Vec<u8>> {
        let asked = match Message::from_vec(question) {
            Ok(asked) => asked,
            Err(_) => return malformed(question),
        };
        if asked.metadata.message_type != MessageType::Query {
            return None;
        }
        let mut reply = Message::response(asked.metadata.id, asked.metadata.op_code);
        reply.metadata.recursion_desired = asked.metadata.recursion_desired;
        let mut size = match over {
            Over::Udp => UDP.0,
            Over::Tcp => u16::MAX,
        };
        if let Some(theirs) = &asked.edns {
            let mut ours = Edns::new();
            ours.set_max_payload(UDP.1).set_version(0);
            reply.set_edns(ours);
            if over == Over::Udp {
                size = theirs.max_payload().clamp(UDP.0, UDP.1);
            }
        }
        let newer = asked.edns.as_ref().is_some_and(|theirs| theirs.version() > 0);
        reply.metadata.response_code = match (asked.metadata.op_code, asked.queries.as_slice()) {
            _ if newer => ResponseCode::BADVERS,
            (OpCode::Query, [query]) => self.fill(&mut reply, query, look_up, rng),
            (OpCode::Query, _) => ResponseCode::FormErr,
            _ => ResponseCode::NotImp,
        };
        if asked.queries.len() == 1 {
            reply.add_queries(asked.queries);
        }
        fit(reply, size.into())
    }

    /// Puts into `reply` what is known and answers its code.
    fn fill(
        &self,
        reply: &mut Message,
        query: &Query,
        look_up: impl Fn(&str) -> Known,
        rng: &mut fastrand::Rng,
    ) -> ResponseCode {
        let (name, kind) = (query.name(), query.query_type());
        if query.query_class() != DNSClass::IN || !self.domain.zone_of(name) {
            return ResponseCode::Refused;
        }
        if matches!(kind, RecordType::AXFR | RecordType::IXFR) {
            return ResponseCode::Refused;
        }
        reply.metadata.authoritative = true;
        let (service, addresses_too) = match self.subject(name) {
            Subject::Service(service) => (service, true),
            Subject::ServiceSrv(service) => (service, false),
            Subject::Address(ip) => {
                let wanted = kind == RecordType::ANY || kind == record_type(ip);
                if wanted {
                    reply.add_answer(self.address(name.clone(), ip));
                }
                return self.or_no_data(reply);
            }
            Subject::Apex => {
                if matches!(kind, RecordType::SOA | RecordType::ANY) {
                    reply.add_answer(self.soa());
                }
                return self.or_no_data(reply);
            }
            Subject::Between => return self.or_no_data(reply),
            Subject::Unknown => return self.no_such_name(reply),
        };
        match look_up(&service) {
            Known::Nothing => {
                reply.metadata.authoritative = false;
                ResponseCode::ServFail
            }
            Known::Nobody if service == ADDR && addresses_too => self.or_no_data(reply),
            Known::Nobody => self.no_such_name(reply),
            Known::Instances(instances) => {
                let chosen = choose(&instances, rng);
                let all = kind == RecordType::ANY;
                if addresses_too {
                    self.addresses(reply, name, &chosen, |ip| all || kind == record_type(ip));
                }
                if all || kind == RecordType::SRV {
                    self.services(reply, name, &chosen);
                }
                self.or_no_data(reply)
            }
        }
    }

    /// The instances' addresses, each once.
    fn addresses(
        &self,
        reply: &mut Message,
        name: &Name,
        chosen: &[&Registered],
        wanted: impl Fn(IpAddr) -> bool,
    ) {
        let mut told = std::collections::HashSet::new();
        for ip in chosen.iter().map(|one| one.address.ip()).filter(|ip| wanted(*ip)) {
            if told.insert(ip) {
                reply.add_answer(self.address(name.clone(), ip));
            }
        }
    }

    /// The instances' ports and weights, and beside them their addresses.
    fn services(&self, reply: &mut Message, name: &Name, chosen: &[&Registered]) {
        let mut told = std::collections::HashSet::new();
        for one in chosen {
            let ip = one.address.ip();
            let Some(target) = self.address_name(ip) else { continue };
            let weight = u16::try_from(one.weight).unwrap_or(u16::MAX);
            let data = RData::SRV(SRV::new(1, weight, one.address.port(), target.clone()));
            reply.add_answer(Record::from_rdata(name.clone(), self.ttl, data));
            if told.insert(ip) {
                reply.add_additional(self.address(target, ip));
            }
        }
    }

    fn subject(&self, name: &Name) -> Subject {
        let below = usize::from(name.num_labels()).saturating_sub(self.domain.num_labels().into());
        let labels: Vec<String> = name
            .iter()
            .take(below)
            .map(|label| String::from_utf8_lossy(label).to_ascii_lowercase())
            .collect();
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let service = |label: &str| crate::registry::check_service(label).is_ok().then(|| label.to_owned());
        match labels.as_slice() {
            [] => Subject::Apex,
            ["_tcp"] => Subject::Between,
            [label] => service(label).map_or(Subject::Unknown, Subject::Service),
            [label, "_tcp"] => {
                label.strip_prefix('_').and_then(service).map_or(Subject::Unknown, Subject::ServiceSrv)
            }
            [label, ADDR] => address_of(label).map_or(Subject::Unknown, Subject::Address),
            _ => Subject::Unknown,
        }
    }

    fn address_name(&self, ip: IpAddr) -> Option<Name> {
        let label = match ip {
            IpAddr::V4(ip) => format!("{:08x}", u32::from(ip)),
            IpAddr::V6(ip) => format!("{:032x}", u128::from(ip)),
        };
        self.domain.prepend_label(ADDR).and_then(|name| name.prepend_label(label)).ok()
    }

    fn address(&self, name: Name, ip: IpAddr) -> Record {
        let data = match ip {
            IpAddr::V4(ip) => RData::A(A(ip)),
            IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
        };
        Record::from_rdata(name, self.ttl, data)
    }

    fn soa(&self) -> Record {
        let mail = self.domain.prepend_label("hostmaster").unwrap_or_else(|_| self.domain.clone());
        let ttl = i32::try_from(self.ttl).unwrap_or(1);
        let data = RData::SOA(SOA::new(self.domain.clone(), mail, 1, ttl, ttl, ttl, self.ttl));
        Record::from_rdata(self.domain.clone(), self.ttl, data)
    }

    /// The name exists. Without a record of the wanted type, the zone's own says how long to remember that (RFC 2308).
    fn or_no_data(&self, reply: &mut Message) -> ResponseCode {
        if reply.answers.is_empty() {
            reply.add_authority(self.soa());
        }
        ResponseCode::NoError
    }

    fn no_such_name(&self, reply: &mut Message) -> ResponseCode {
        reply.add_authority(self.soa());
        ResponseCode::NXDomain
    }
}

fn record_type(ip: IpAddr) -> RecordType {
    if ip.is_ipv4() { RecordType::A } else { RecordType::AAAA }
}

/// The address that a label spells in hexadecimal.
fn address_of(label: &str) -> Option<IpAddr> {
    if !label.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    match label.len() {
        8 => u32::from_str_radix(label, 16).ok().map(|bits| Ipv4Addr::from(bits).into()),
        32 => u128::from_str_radix(label, 16).ok().map(|bits| Ipv6Addr::from(bits).into()),
        _ => None,
    }
}

/// Those to tell of, the first ones most likely those of large weight: each gets the key `u^(1/weight)` of a uniform `u`, and
/// the largest keys win (Efraimidis and Spirakis 2006).
fn choose<'a>(instances: &'a [Arc<Registered>], rng: &mut fastrand::Rng) -> Vec<&'a Registered> {
    let serving = instances.iter().filter(|one| !one.lame_duck && one.weight > 0);
    let mut drawn: Vec<(f64, &Registered)> =
        serving.map(|one| (rng.f64().ln() / f64::from(one.weight), &**one)).collect();
    if drawn.is_empty() {
        // Nobody wants new requests; somebody is better than nobody.
        drawn = instances.iter().map(|one| (rng.f64(), &**one)).collect();
    }
    drawn.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
    drawn.truncate(ANSWERS_MAX);
    drawn.into_iter().map(|(_, one)| one).collect()
}

/// The bytes of `reply`, in at most `size`: first what is only beside the answer goes, then as many answers as must, and the
/// rest is marked as cut off, so that the client asks again over TCP.
fn fit(mut reply: Message, size: usize) -> Option<Vec<u8>> {
    let whole = reply.to_vec().ok()?;
    if whole.len() <= size {
        return Some(whole);
    }
    reply.additionals.clear();
    let mut answers = std::mem::take(&mut reply.answers);
    let fits = |reply: &Message| reply.to_vec().ok().filter(|bytes| bytes.len() <= size);
    reply.answers = answers.clone();
    if let Some(bytes) = fits(&reply) {
        return Some(bytes);
    }
    reply.metadata.truncation = true;
    let (mut low, mut high) = (0, answers.len());
    while low < high {
        let middle = (low + high).div_ceil(2);
        reply.answers = answers[..middle].to_vec();
        if fits(&reply).is_some() { low = middle } else { high = middle - 1 }
    }
    answers.truncate(low);
    reply.answers = answers;
    fits(&reply)
}

/// What is said to bytes that are no DNS message: nothing, unless their head says that they are a question.
fn malformed(question: &[u8]) -> Option<Vec<u8>> {
    let head: [u8; 12] = question.get(..12)?.try_into().ok()?;
    let is_response = head[2] & 0x80 != 0;
    (!is_response).then(|| {
        // The same id, operation and wish for recursion; a response; format error; no sections.
        let mut reply = [0; 12];
        reply[..2].copy_from_slice(&head[..2]);
        reply[2] = 0x80 | (head[2] & 0x79);
        reply[3] = 1;
        reply.to_vec()
    })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use model::Span;
    use proptest::prelude::*;

    use super::*;

    fn zone() -> Zone {
        Zone::new(&DnsParams::default()).unwrap()
    }

    fn instance(number: u16, address: &str) -> Arc<Registered> {
        let address: SocketAddr = address.parse().unwrap();
        Arc::new(Registered {
            name: format!("i{number}"),
            address,
            weight: 1,
            zone: None,
            version: None,
            lame_duck: false,
        })
    }

    fn question(name: &str, kind: RecordType) -> Message {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message
    }

    fn ask_with(message: &Message, over: Over, instances: &[Arc<Registered>]) -> Message {
        let look_up = |service: &str| match service {
            "cart" => Known::Instances(instances.into()),
            "silent" => Known::Nothing,
            _ => Known::Nobody,
        };
        let bytes = zone()
            .answer(&message.to_vec().unwrap(), over, look_up, &mut fastrand::Rng::with_seed(1))
            .expect("an answer");
        let reply = Message::from_vec(&bytes).unwrap();
        assert_eq!((reply.metadata.id, reply.metadata.message_type), (7, MessageType::Response));
        assert_eq!(reply.queries, message.queries);
        reply
    }

    fn ask(name: &str, kind: RecordType) -> Message {
        let instances = [
            instance(1, "10.0.0.1:8080"),
            instance(2, "10.0.0.2:8081"),
            instance(3, "[2001:db8::1]:8080"),
            instance(4, "10.0.0.1:9090"),
        ];
        ask_with(&question(name, kind), Over::Udp, &instances)
    }

    fn ips(reply: &Message) -> Vec<String> {
        let mut ips: Vec<_> = reply
            .answers
            .iter()
            .filter_map(|record| record.data.ip_addr())
            .map(|ip| ip.to_string())
            .collect();
        ips.sort();
        ips
    }

    #[test]
    fn addresses_are_answered_by_family_and_once() {
        let reply = ask("cart.seawall.", RecordType::A);
        assert_eq!(ips(&reply), ["10.0.0.1", "10.0.0.2"]);
        assert!(reply.metadata.authoritative && reply.answers.iter().all(|record| record.ttl == 1));
        assert_eq!(ips(&ask("CART.SeaWall.", RecordType::AAAA)), ["2001:db8::1"]);
    }

    #[test]
    fn srv_tells_ports_and_names_that_have_the_addresses() {
        for name in ["_cart._tcp.seawall.", "cart.seawall."] {
            let reply = ask(name, RecordType::SRV);
            assert_eq!((reply.answers.len(), reply.additionals.len()), (4, 3), "{name}");
            for record in &reply.answers {
                let RData::SRV(srv) = &record.data else { panic!("{record}") };
                let beside =
                    reply.additionals.iter().find(|one| one.name == srv.target).expect("its address");
                let ip = beside.data.ip_addr().unwrap();
                let kind = record_type(ip);
                assert_eq!(ips(&ask(&srv.target.to_ascii(), kind)), [ip.to_string()]);
            }
        }
    }

    #[test]
    fn names_that_do_not_exist_are_told_from_types_that_do_not() {
        let codes = |name: &str, kind| {
            let reply = ask(name, kind);
            assert!(reply.answers.is_empty());
            let soa =
                reply.authorities.iter().filter(|record| record.record_type() == RecordType::SOA).count();
            (reply.metadata.response_code, soa)
        };
        for name in
            ["shop.seawall.", "_shop._tcp.seawall.", "a.cart.seawall.", "xx.addr.seawall.", "_cart.seawall."]
        {
            assert_eq!(codes(name, RecordType::A), (ResponseCode::NXDomain, 1), "{name}");
        }
        for (name, kind) in [
            ("cart.seawall.", RecordType::MX),
            ("_cart._tcp.seawall.", RecordType::A),
            ("_tcp.seawall.", RecordType::A),
            ("addr.seawall.", RecordType::A),
            ("0a000001.addr.seawall.", RecordType::AAAA),
            ("seawall.", RecordType::A),
        ] {
            assert_eq!(codes(name, kind), (ResponseCode::NoError, 1), "{name}");
        }
        assert_eq!(codes("cart.example.", RecordType::A), (ResponseCode::Refused, 0));
        assert_eq!(codes("cart.seawall.", RecordType::AXFR), (ResponseCode::Refused, 0));
        assert_eq!(ask("seawall.", RecordType::SOA).answers.len(), 1);
    }

    /// TRAP 17: not to know is not the same as to know that there is nobody.
    #[test]
    fn trap_17_before_the_registry_was_heard_no_name_is_denied() {
        let reply = ask("silent.seawall.", RecordType::A);
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
        assert!(reply.authorities.is_empty());
    }

    #[test]
    fn lame_ducks_and_weight_0_are_the_last_resort() {
        let lame = |number, address: &str| {
            Arc::new(Registered { lame_duck: true, ..Registered::clone(&instance(number, address)) })
        };
        let idle = Arc::new(Registered { weight: 0, ..Registered::clone(&instance(3, "10.0.0.3:80")) });
        let asked = question("cart.seawall.", RecordType::A);
        let some = [instance(1, "10.0.0.1:80"), lame(2, "10.0.0.2:80"), Arc::clone(&idle)];
        assert_eq!(ips(&ask_with(&asked, Over::Udp, &some)), ["10.0.0.1"]);
        let none = [lame(2, "10.0.0.2:80"), idle];
        assert_eq!(ips(&ask_with(&asked, Over::Udp, &none)), ["10.0.0.2", "10.0.0.3"]);
    }

    #[test]
    fn the_first_address_is_drawn_by_weight() {
        let heavy = Arc::new(Registered { weight: 9, ..Registered::clone(&instance(1, "10.0.0.1:80")) });
        let instances = [heavy, instance(2, "10.0.0.2:80")];
        let mut rng = fastrand::Rng::with_seed(3);
        let first = (0..2_000).filter(|_| choose(&instances, &mut rng)[0].weight == 9).count();
        assert!((1_700..1_900).contains(&first), "{first}");
    }

    #[test]
    fn what_does_not_fit_a_datagram_is_cut_off_and_marked() {
        let instances: Vec<_> = (0..=255).map(|n| instance(n, &format!("10.0.0.{n}:80"))).collect();
        let mut asked = question("cart.seawall.", RecordType::A);
        let small = ask_with(&asked, Over::Udp, &instances);
        assert!(small.metadata.truncation && small.to_vec().unwrap().len() <= 512);
        assert!(small.answers.len() > 20, "{}", small.answers.len());
        let mut edns = Edns::new();
        edns.set_max_payload(65_000);
        asked.set_edns(edns);
        let large = ask_with(&asked, Over::Udp, &instances);
        assert!(large.metadata.truncation && large.to_vec().unwrap().len() <= 1232);
        assert!(large.answers.len() > small.answers.len() && large.edns.is_some());
        let whole = ask_with(&asked, Over::Tcp, &instances);
        assert_eq!((whole.metadata.truncation, whole.answers.len()), (false, 256));
        let srv = ask_with(&question("_cart._tcp.seawall.", RecordType::SRV), Over::Tcp, &instances);
        assert_eq!((srv.metadata.truncation, srv.answers.len(), srv.additionals.len()), (false, 256, 256));
    }

    #[test]
    fn odd_questions_get_the_code_for_them() {
        let code = |message: &Message| ask_with(message, Over::Udp, &[]).metadata.response_code;
        let asked = question("cart.seawall.", RecordType::A);
        let mut newer = asked.clone();
        let mut edns = Edns::new();
        edns.set_version(1);
        newer.set_edns(edns);
        // BADVERS and BADSIG are the same number.
        assert_eq!(u16::from(code(&newer)), 16);
        let mut status = asked.clone();
        status.metadata.op_code = OpCode::Status;
        assert_eq!(code(&status), ResponseCode::NotImp);
        let mut chaos = asked.clone();
        chaos.queries[0].set_query_class(DNSClass::CH);
        assert_eq!(code(&chaos), ResponseCode::Refused);
        let mut twice = asked.clone();
        twice.add_query(asked.queries[0].clone());
        let bytes =
            zone().answer(&twice.to_vec().unwrap(), Over::Udp, |_| Known::Nobody, &mut fastrand::Rng::new());
        assert_eq!(Message::from_vec(&bytes.unwrap()).unwrap().metadata.response_code, ResponseCode::FormErr);
        let mut response = asked;
        response.metadata.message_type = MessageType::Response;
        let silence = zone().answer(
            &response.to_vec().unwrap(),
            Over::Udp,
            |_| Known::Nobody,
            &mut fastrand::Rng::new(),
        );
        assert_eq!(silence, None, "two servers never talk to one another");
    }

    #[test]
    fn domains_are_names() {
        let made = |domain: &str| Zone::new(&DnsParams { domain: domain.to_owned(), ..DnsParams::default() });
        assert!(["seawall", "Svc.Internal", "a.b.c."].iter().all(|domain| made(domain).is_some()));
        assert!(["", ".", "a..b", "a b", "ä", &"a.".repeat(80)].iter().all(|domain| made(domain).is_none()));
        let public = DnsParams {
            address: "0.0.0.0:53".parse().unwrap(),
            ttl: Span::default(),
            ..DnsParams::default()
        };
        let keys: Vec<_> = public.check().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["address", "ttl"]);
    }

    proptest! {
        /// Whatever bytes come: no panic, and an answer is a response to just that id that fits its transport.
        #[test]
        fn any_bytes_are_answered_within_bounds(
            start in prop::option::of(prop::sample::select(vec![RecordType::A, RecordType::SRV, RecordType::ANY])),
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            count in 0..300u16,
        ) {
            let mut bytes = match start {
                Some(kind) => question("cart.seawall.", kind).to_vec().unwrap(),
                None => bytes,
            };
            for (place, byte) in changes.into_iter().filter(|_| !bytes.is_empty()).collect::<Vec<_>>() {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            let instances: Arc<[_]> =
                (0..count).map(|n| instance(n, &format!("10.0.{}.{}:80", n / 256, n % 256))).collect();
            for over in [Over::Udp, Over::Tcp] {
                let look_up = |_: &str| Known::Instances(Arc::clone(&instances));
                if let Some(reply) = zone().answer(&bytes, over, look_up, &mut fastrand::Rng::with_seed(1)) {
                    let most = if over == Over::Udp { 1232 } else { 65_535 };
                    prop_assert!(reply.len() <= most, "{}", reply.len());
                    prop_assert_eq!(&reply[..2], &bytes[..2]);
                    prop_assert!(reply[2] & 0x80 != 0 && bytes[2] & 0x80 == 0);
                }
            }
        }
    }
}
