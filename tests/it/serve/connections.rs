//! Connections that wait for their client, more of them than there are places.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use translora::control::Bounds;
use translora::serve::{Config, Limits};

use super::client::get;
use super::{Lab, endless, serve};

/// For what would never end where the server did not end it.
const LONG: Duration = Duration::from_secs(3600);

fn limits(connections: Bounds) -> Limits {
    Limits {
        connections,
        shutdown_seconds_max: LONG.as_secs(),
        ..Limits::default()
    }
}

fn patient(connections_max: usize) -> Bounds {
    Bounds {
        connections_max,
        head: LONG,
        idle: LONG,
        unread: LONG,
    }
}

/// A connection on which so much was sent.
fn begun(address: SocketAddr, sent: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.write_all(sent.as_bytes()).expect("it can be sent");
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .expect("a timeout can be set");
    stream
}

/// Wait until the server has ended a connection.
#[track_caller]
fn is_ended(mut stream: TcpStream) {
    let ended = match stream.read_to_end(&mut Vec::new()) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    };
    assert!(ended, "the server waits for ever");
}

const HALF_A_HEAD: &str = "GET /health HTTP/1.1\r\nX: ";
const HALF_A_BODY: &str = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n\
    Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{";

#[test]
fn clients_that_send_half_a_request_keep_nobody_out() {
    let lab = Lab::new();
    let (_server, address) = serve(Config {
        limits: limits(patient(8)),
        context: 4 << 20,
        ..lab.config()
    });
    let mut stream = endless(address, "ticket");
    stream.events().expect("it has begun");
    for half in [HALF_A_HEAD, HALF_A_BODY, ""] {
        let mut halves = Vec::new();
        for round in 0..100 {
            halves.push(begun(address, half));
            if round % 10 == 0 {
                assert_eq!(get(address, "/health").status, 200);
                assert_eq!(get(address, "/v1/models").status, 200);
            }
        }
        // Those that waited longest had to go.
        halves.into_iter().take(80).for_each(is_ended);
    }
    stream.events().expect("an answer under way goes on");
}

#[test]
fn a_connection_ends_when_its_time_for_a_head_or_between_two_is_over() {
    let lab = Lab::new();
    let soon = Duration::from_millis(1);
    let (_server, address) = serve(Config {
        limits: limits(Bounds {
            head: soon,
            ..patient(8)
        }),
        ..lab.config()
    });
    is_ended(begun(address, HALF_A_HEAD));
    is_ended(begun(address, ""));
    let (_server, address) = serve(Config {
        limits: limits(Bounds {
            idle: soon,
            ..patient(8)
        }),
        ..lab.config()
    });
    is_ended(begun(
        address,
        "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ));
}

#[test]
fn a_client_that_reads_nothing_is_left() {
    let lab = Lab::new();
    let (_server, address) = serve(Config {
        limits: limits(Bounds {
            unread: Duration::from_millis(1),
            ..patient(8)
        }),
        ..lab.config()
    });
    let mut stream = begun(address, "");
    let ask = "GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n";
    // The answers are left in the buffers of the system until those are full.
    while stream.write_all(ask.as_bytes()).is_ok() {}
}

#[test]
fn a_stop_does_not_wait_for_half_a_head_or_between_requests() {
    let lab = Lab::new();
    let (server, address) = serve(Config {
        limits: limits(patient(8)),
        ..lab.config()
    });
    let mut idle = begun(address, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    idle.read_exact(&mut [0; 12]).expect("it is answered");
    let halves = [begun(address, HALF_A_HEAD), begun(address, ""), idle];
    server.stop();
    halves.into_iter().for_each(is_ended);
}

#[test]
fn where_every_connection_works_a_new_one_is_refused() {
    let lab = Lab::new();
    let (_server, address) = serve(Config {
        limits: limits(patient(2)),
        context: 4 << 20,
        ..lab.config()
    });
    let mut streams = [endless(address, "ticket"), endless(address, "second")];
    for stream in &mut streams {
        stream.events().expect("it has begun");
    }
    let mut answer = String::new();
    let mut refused = begun(address, "");
    refused.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    for stream in &mut streams {
        stream.events().expect("it goes on");
    }
}
