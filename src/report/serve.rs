//! A small HTTP server for pages on this machine: GET of a few fixed paths, each answered by a function.
//!
//! No part of a request names a file. Only requests that a browser of this machine makes of this address are answered: a page
//! from elsewhere that reaches it under another host's name is refused.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Longest request that is read: its line and its headers.
const LONGEST: u64 = 16 << 10;
/// Time that a browser has for its request, and for the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections at once.
const MOST: usize = 32;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// MIME type of the content.
    pub kind: &'static str,
    /// The content.
    pub content: Vec<u8>,
}

impl Reply {
    /// A page.
    pub fn html(page: String) -> Self {
        Self { kind: "text/html; charset=utf-8", content: page.into_bytes() }
    }

    /// Plain text.
    pub fn text(text: String) -> Self {
        Self { kind: "text/plain; charset=utf-8", content: text.into_bytes() }
    }
}

/// Listens on 127.0.0.1: at `port`, or at any free one where it is 0.
///
/// # Errors
/// A port that is taken, or that only an administrator may take.
pub fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, port))
}

/// Answers requests for ever: `answer` gives the reply for a path, `None` where there is nothing.
///
/// # Errors
/// If the listener is lost.
pub fn serve(listener: &TcpListener, answer: &(dyn Fn(&str) -> Option<Reply> + Sync)) -> io::Result<()> {
    let address = listener.local_addr()?;
    let open = AtomicUsize::new(0);
    thread::scope(|scope| {
        loop {
            let Ok((stream, _)) = listener.accept() else {
                // A connection that broke off, or too many open files: others come.
                thread::sleep(Duration::from_millis(50));
                continue;
            };
            if open.fetch_add(1, Ordering::Relaxed) >= MOST {
                open.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let open = &open;
            let answered = thread::Builder::new().spawn_scoped(scope, move || {
                // Whoever hangs up has no use for an answer.
                let _ = converse(&stream, address, answer);
                open.fetch_sub(1, Ordering::Relaxed);
            });
            if answered.is_err() {
                open.fetch_sub(1, Ordering::Relaxed);
            }
        }
    })
}

/// Reads a request and answers it.
fn converse(
    stream: &TcpStream,
    address: SocketAddr,
    answer: &(dyn Fn(&str) -> Option<Reply> + Sync),
) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut lines = BufReader::new(stream.take(LONGEST)).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut host = None;
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("host")
        {
            host = Some(value.trim().to_owned());
        }
    }
    let (status, reply) = reply(&first, host.as_deref(), address, answer);
    let allowed = if status.starts_with("405") { "Allow: GET\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
         X-Content-Type-Options: nosniff\r\n{allowed}Connection: close\r\n\r\n",
        reply.kind,
        reply.content.len()
    );
    let mut stream = stream;
    stream.write_all(head.as_bytes())?;
    stream.write_all(&reply.content)
}

/// Status and content of the answer to the request that begins with the line `first`.
fn reply(
    first: &str,
    host: Option<&str>,
    address: SocketAddr,
    answer: &(dyn Fn(&str) -> Option<Reply> + Sync),
) -> (&'static str, Reply) {
    let told = |status: &'static str| (status, Reply::text(format!("{status}\n")));
    let mut words = first.split_ascii_whitespace();
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return told("400 Bad Request");
    };
    if !version.starts_with("HTTP/1.") {
        return told("400 Bad Request");
    }
    let port = address.port();
    let own = [format!("127.0.0.1:{port}"), format!("localhost:{port}")];
    if !host.is_some_and(|host| own.iter().any(|own| own.eq_ignore_ascii_case(host))) {
        return told("403 Forbidden");
    }
    if method != "GET" {
        return told("405 Method Not Allowed");
    }
    let path = target.split(['?', '#']).next().unwrap_or_default();
    answer(path).map_or_else(|| told("404 Not Found"), |reply| ("200 OK", reply))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer to `request` over a socket, `PORT` in it replaced by the port.
    fn asked(request: &str) -> String {
        let listener = listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        assert!(address.ip().is_loopback());
        let request = request.replace("PORT", &address.port().to_string());
        let asking = thread::spawn(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            // A server that stops reading in the middle may reset the connection.
            let _ = stream.write_all(request.as_bytes());
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let mut answer = String::new();
            let _ = stream.read_to_string(&mut answer);
            answer
        });
        let (stream, _) = listener.accept().unwrap();
        let page = |path: &str| (path == "/").then(|| Reply::html("<p>é</p>".to_owned()));
        let _ = converse(&stream, address, &page);
        drop(stream);
        asking.join().unwrap()
    }

    #[test]
    fn a_page_is_answered_with_its_length_and_its_kind() {
        let answer = asked("GET /?x=1 HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("Content-Length: 9\r\n") && answer.contains("text/html; charset=utf-8"));
        assert!(answer.ends_with("\r\n\r\n<p>é</p>"), "{answer}");
    }

    #[test]
    fn no_path_leads_to_a_file() {
        for path in ["/../../etc/passwd", "/%2e%2e/config.toml", "/config.toml", "//", "..", "/./"] {
            let answer = asked(&format!("GET {path} HTTP/1.1\r\nHost: localhost:PORT\r\n\r\n"));
            assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
        }
    }

    #[test]
    fn other_methods_hosts_and_languages_are_refused() {
        let host = "Host: 127.0.0.1:PORT\r\n\r\n";
        for (request, status) in [
            (format!("POST / HTTP/1.1\r\n{host}"), "405"),
            (format!("HEAD / HTTP/1.1\r\n{host}"), "405"),
            ("GET / HTTP/1.1\r\nHost: evil.example:PORT\r\n\r\n".to_owned(), "403"),
            ("GET / HTTP/1.1\r\n\r\n".to_owned(), "403"),
            (format!("GET / SPDY/3\r\n{host}"), "400"),
            (format!("GET /\r\n{host}"), "400"),
            (format!("GET / x HTTP/1.1\r\n{host}"), "400"),
            (String::new(), "400"),
        ] {
            let answer = asked(&request);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer}");
        }
    }

    #[test]
    fn an_endless_request_is_cut_off() {
        let answer = asked(&format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(100_000)));
        assert!(!answer.contains("200 OK"), "{answer}");
    }
}
