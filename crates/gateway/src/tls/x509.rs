//! What the gateway itself reads in a certificate: whose it is, and how long it holds. Whether it is good is for others to say.
//!
//! A strict reader of the few pieces of DER that lead there. It never looks behind the end of a piece, and answers nothing
//! rather than a guess.

/// What a certificate says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Seconds since the Unix epoch.
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
    /// Alternative names, of the kinds that name a host, a service or a person.
    pub(crate) dns: Vec<String>,
    pub(crate) uris: Vec<String>,
    pub(crate) emails: Vec<String>,
    /// The subject's common name, the last one if there are several.
    pub(crate) common_name: Option<String>,
}

impl Facts {
    /// Every name that identifies the holder, the most telling first. The common name counts only where there is no other, as
    /// RFC 6125 has it.
    pub(crate) fn identity(self) -> Box<[Box<str>]> {
        let Self { dns, uris, emails, common_name, .. } = self;
        let mut names: Vec<_> = uris.into_iter().chain(dns).chain(emails).collect();
        if names.is_empty() {
            names.extend(common_name);
        }
        names.into_iter().map(String::into_boxed_str).collect()
    }
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const OID: u8 = 0x06;
const UTF8: u8 = 0x0c;
const PRINTABLE: u8 = 0x13;
const IA5: u8 = 0x16;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0]`, `[1]`, `[2]`, `[3]` of a certificate.
const VERSION: u8 = 0xa0;
const ISSUER_ID: u8 = 0x81;
const SUBJECT_ID: u8 = 0x82;
const EXTENSIONS: u8 = 0xa3;
/// `[1]`, `[2]`, `[6]` of a general name.
const EMAIL: u8 = 0x81;
const DNS: u8 = 0x82;
const URI: u8 = 0x86;

const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// Names that are looked at. No honest certificate has more.
const NAMES_MAX: usize = 1024;
/// Bytes of a name that is used.
const NAME_BYTES_MAX: usize = 1024;

/// Pieces of DER, one after the other.
struct Der<'d>(&'d [u8]);

impl<'d> Der<'d> {
    /// The next piece: its tag and what is in it.
    fn next(&mut self) -> Option<(u8, &'d [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        // Tags of several bytes do not occur in certificates.
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (&first, mut rest) = rest.split_first()?;
        let length = match first {
            0..=0x7f => usize::from(first),
            // 0x80 would end somewhere else.
            0x81..=0x84 => {
                let (digits, behind) = rest.split_at_checked(usize::from(first & 0x7f))?;
                rest = behind;
                // The shortest form is the only one.
                if digits[0] == 0 || (digits.len() == 1 && digits[0] < 0x80) {
                    return None;
                }
                digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit))
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// The next piece, which must have this tag.
    fn expect(&mut self, tag: u8) -> Option<&'d [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }

    /// The next piece if it has this tag; the outer `None` says that it has, and is damaged.
    fn optional(&mut self, tag: u8) -> Option<Option<&'d [u8]>> {
        if self.0.first() == Some(&tag) { self.expect(tag).map(Some) } else { Some(None) }
    }
}

/// What the certificate `der` says, or nothing if it is none.
pub(crate) fn read(der: &[u8]) -> Option<Facts> {
    let mut certificate = Der(Der(der).expect(SEQUENCE)?);
    let mut body = Der(certificate.expect(SEQUENCE)?);
    body.optional(VERSION)?;
    body.expect(INTEGER)?;
    let _algorithm = body.expect(SEQUENCE)?;
    let _issuer = body.expect(SEQUENCE)?;
    let mut validity = Der(body.expect(SEQUENCE)?);
    let mut facts =
        Facts { not_before: time(&mut validity)?, not_after: time(&mut validity)?, ..Facts::default() };
    facts.common_name = common_name(body.expect(SEQUENCE)?)?;
    let _key = body.expect(SEQUENCE)?;
    body.optional(ISSUER_ID)?;
    body.optional(SUBJECT_ID)?;
    if let Some(extensions) = body.optional(EXTENSIONS)? {
        let mut extensions = Der(Der(extensions).expect(SEQUENCE)?);
        while !extensions.0.is_empty() {
            let mut extension = Der(extensions.expect(SEQUENCE)?);
            let kind = extension.expect(OID)?;
            extension.optional(BOOLEAN)?;
            let value = extension.expect(OCTETS)?;
            if kind == SUBJECT_ALT_NAME {
                alternative_names(value, &mut facts)?;
            }
        }
    }
    // Whatever else there is may be names that were not understood.
    body.0.is_empty().then_some(facts)
}

fn alternative_names(value: &[u8], facts: &mut Facts) -> Option<()> {
    let mut names = Der(Der(value).expect(SEQUENCE)?);
    for _ in 0..NAMES_MAX {
        if names.0.is_empty() {
            break;
        }
        let (tag, name) = names.next()?;
        let list = match tag {
            EMAIL => &mut facts.emails,
            DNS => &mut facts.dns,
            URI => &mut facts.uris,
            _ => continue,
        };
        list.extend(text(name));
    }
    Some(())
}

/// The common name in a subject; the outer `None` says that it is no subject.
fn common_name(subject: &[u8]) -> Option<Option<String>> {
    let (mut sets, mut found) = (Der(subject), None);
    while !sets.0.is_empty() {
        let mut attributes = Der(sets.expect(SET)?);
        while !attributes.0.is_empty() {
            let mut attribute = Der(attributes.expect(SEQUENCE)?);
            let kind = attribute.expect(OID)?;
            let (tag, value) = attribute.next()?;
            if kind == COMMON_NAME && matches!(tag, UTF8 | PRINTABLE | IA5) {
                found = text(value);
            }
        }
    }
    Some(found)
}

/// A name that can stand in a header, a log and a configuration. Others are nobody's: what looks like one name and is another
/// is how such names are abused.
fn text(bytes: &[u8]) -> Option<String> {
    let fits = |byte: &u8| matches!(byte, b' '..=b'~');
    let bare = bytes.trim_ascii().len() == bytes.len();
    let usable = (1..=NAME_BYTES_MAX).contains(&bytes.len()) && bare && bytes.iter().all(fits);
    usable.then(|| String::from_utf8_lossy(bytes).into_owned())
}

/// Seconds since the Unix epoch.
fn time(der: &mut Der<'_>) -> Option<i64> {
    let (tag, text) = der.next()?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = digits(text, 2)?;
            // RFC 5280, 4.1.2.5.1.
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => digits(text, 4)?,
        _ => return None,
    };
    let (month, rest) = digits(rest, 2)?;
    let (day, rest) = digits(rest, 2)?;
    let (hour, rest) = digits(rest, 2)?;
    let (minute, rest) = digits(rest, 2)?;
    let (second, rest) = digits(rest, 2)?;
    let fits =
        (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second < 60;
    (rest == b"Z" && fits).then(|| days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}

fn digits(text: &[u8], count: usize) -> Option<(i64, &[u8])> {
    let (digits, rest) = text.split_at_checked(count)?;
    let digit = |number: i64, byte: &u8| byte.is_ascii_digit().then(|| number * 10 + i64::from(byte - b'0'));
    Some((digits.iter().try_fold(0, digit)?, rest))
}

/// Days from 1970-01-01 to a day of the Gregorian calendar. Years begin in March, so that leap days come last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn piece(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut der = vec![tag];
        match content.len() {
            length @ 0..0x80 => der.push(length as u8),
            length @ 0x80..0x100 => der.extend([0x81, length as u8]),
            length => der.extend([0x82, (length >> 8) as u8, length as u8]),
        }
        der.extend(content);
        der
    }

    fn pieces<const N: usize>(tag: u8, parts: [Vec<u8>; N]) -> Vec<u8> {
        piece(tag, &parts.concat())
    }

    /// A certificate of a thousand years with these names; signed by nobody.
    fn certificate(common_name: &[u8], names: &[(u8, &[u8])]) -> Vec<u8> {
        let validity = pieces(
            SEQUENCE,
            [piece(UTC_TIME, b"240229120000Z"), piece(GENERALIZED_TIME, b"30240101000000Z")],
        );
        let attribute = pieces(SEQUENCE, [piece(OID, COMMON_NAME), piece(UTF8, common_name)]);
        let names: Vec<u8> = names.iter().flat_map(|(tag, name)| piece(*tag, name)).collect();
        let padding = piece(0x87, &[0; 200]);
        let value = pieces(SEQUENCE, [padding, names]);
        let extension =
            pieces(SEQUENCE, [piece(OID, SUBJECT_ALT_NAME), piece(BOOLEAN, &[0xff]), piece(OCTETS, &value)]);
        let body = pieces(
            SEQUENCE,
            [
                pieces(VERSION, [piece(INTEGER, &[2])]),
                piece(INTEGER, &[1]),
                piece(SEQUENCE, &[]),
                piece(SEQUENCE, &[]),
                validity,
                pieces(SEQUENCE, [piece(SET, &attribute)]),
                piece(SEQUENCE, &[]),
                pieces(EXTENSIONS, [piece(SEQUENCE, &extension)]),
            ],
        );
        pieces(SEQUENCE, [body, piece(SEQUENCE, &[]), piece(3, &[0])])
    }

    #[test]
    fn names_and_times_are_read() {
        let names: [(u8, &[u8]); 3] =
            [(DNS, b"shop.example"), (URI, b"spiffe://shop/cart"), (EMAIL, b"ann@shop.example")];
        let facts = read(&certificate(b"Ann", &names)).expect("a certificate");
        assert_eq!(facts.not_before, 1_709_208_000);
        assert_eq!(facts.not_after, 33_260_976_000);
        assert_eq!(facts.common_name.as_deref(), Some("Ann"));
        let identity = facts.identity();
        assert_eq!(identity.concat(), "spiffe://shop/cartshop.exampleann@shop.example");
    }

    #[test]
    fn damaged_alternative_names_do_not_make_room_for_the_common_name() {
        let mut der = certificate(b"Ann", &[(DNS, b"shop.example")]);
        let at = der.windows(3).position(|bytes| bytes == SUBJECT_ALT_NAME).expect("alternative names");
        // The length of the extensions, of their list and of the extension stand right before.
        for back in 3..12 {
            let before = std::mem::replace(&mut der[at - back], 0x80);
            assert_eq!(read(&der).map(|facts| facts.identity().concat()).filter(|name| name == "Ann"), None);
            der[at - back] = before;
        }
    }

    #[test]
    fn a_common_name_counts_where_there_is_no_other() {
        let facts = read(&certificate(b"Ann of Shop", &[])).expect("a certificate");
        assert_eq!(&*facts.identity()[0], "Ann of Shop");
    }

    #[test]
    fn a_name_that_is_not_what_it_looks_like_is_nobodys() {
        let long = [b'a'; NAME_BYTES_MAX + 1];
        for name in [&b"shop.example\0.evil.example"[..], b"a\r\nx: y", b"", b" a", b"\xc3\xa4", &long] {
            let facts = read(&certificate(name, &[(DNS, name)])).expect("a certificate");
            assert!(facts.identity().is_empty(), "{name:?}");
        }
    }

    #[test]
    fn days_are_counted_as_calendars_do() {
        for (date, expected) in
            [((1970, 1, 1), 0), ((1969, 12, 31), -1), ((2000, 3, 1), 11_017), ((2024, 2, 29), 19_782)]
        {
            assert_eq!(days(date.0, date.1, date.2), expected, "{date:?}");
        }
    }

    proptest! {
        #[test]
        fn damage_is_never_more_than_an_absence(at in 0usize..400, byte: u8, cut in 0usize..400) {
            let mut der = certificate(b"Ann", &[(DNS, b"shop.example")]);
            let length = der.len();
            der[at % length] = byte;
            read(&der);
            prop_assert!(read(&der[..cut % length]).is_none());
        }

        #[test]
        fn noise_is_no_certificate(bytes: Vec<u8>) {
            prop_assert!(read(&bytes).is_none());
        }
    }
}
