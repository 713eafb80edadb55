//! Replays the corpus of every target, each file as it is and damaged in ways that fixed seeds choose.

use std::fs;
use std::path::Path;

/// Damaged copies of each file.
const COPIES: u64 = 200;
/// As many of a configuration, which takes a thousand times as long to read as a head.
const COPIES_OF_CONFIGS: u64 = 20;

fn replay(target: &str, copies: u64, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .expect("the corpus is part of the crate")
        .map(|entry| entry.expect("the folder can be read").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    for (number, file) in files.iter().enumerate() {
        let sound = fs::read(file).expect("a corpus file can be read");
        check(&sound);
        for copy in 0..copies {
            let mut random = fastrand::Rng::with_seed((number as u64) << 32 | copy);
            check(&damaged(sound.clone(), &mut random));
        }
    }
}

/// The bytes with one to four small damages, favouring the bytes that mean something.
fn damaged(mut bytes: Vec<u8>, random: &mut fastrand::Rng) -> Vec<u8> {
    const TELLING: &[u8] = b"\r\n\t :;,.%/@#*0aF\0\x7f\xff";
    for _ in 0..random.usize(1..=4) {
        if bytes.is_empty() {
            break;
        }
        let at = random.usize(0..bytes.len());
        let byte = if random.bool() { TELLING[random.usize(0..TELLING.len())] } else { random.u8(..) };
        match random.u8(0..5) {
            0 => bytes[at] = byte,
            1 => bytes.insert(at, byte),
            2 => drop(bytes.remove(at)),
            3 => bytes.truncate(at),
            _ => {
                let end = random.usize(at..=bytes.len());
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
        }
    }
    bytes
}

#[test]
fn request_heads_keep_their_promises() {
    replay("request_head", COPIES, fuzz::request_head);
}

#[test]
fn response_heads_keep_their_promises() {
    replay("response_head", COPIES, fuzz::response_head);
}

#[test]
fn chunked_bodies_keep_their_promises() {
    replay("chunked", COPIES, fuzz::chunked);
}

#[test]
fn dns_questions_keep_their_promises() {
    replay("dns_question", COPIES, fuzz::dns_question);
}

#[test]
fn configurations_keep_their_promises() {
    replay("config", COPIES_OF_CONFIGS, fuzz::config);
}

#[test]
fn client_hellos_keep_their_promises() {
    replay("client_hello", COPIES, fuzz::client_hello);
}

#[test]
fn proxy_headers_keep_their_promises() {
    replay("proxy_header", COPIES, fuzz::proxy_header);
}

#[test]
fn certificates_keep_their_promises() {
    replay("certificate", COPIES, fuzz::certificate);
}
