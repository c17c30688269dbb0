//! A web service that says on which host it runs and how often it was asked. The count is kept in a volume, so that a
//! restart does not lose it. Only the standard library, linked statically: the image is this one file.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

struct Service {
    host: String,
    greeting: String,
    file: PathBuf,
    visits: AtomicU64,
}

fn main() -> std::io::Result<()> {
    // The image has no shell and no curl: the program is its own health probe.
    if std::env::args().nth(1).as_deref() == Some("healthy") {
        return probe();
    }
    let directory = std::env::var("DATA").unwrap_or_else(|_| "/data".to_owned());
    let file = Path::new(&directory).join("visits");
    let visits = std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let host = std::fs::read_to_string("/etc/hostname").map(|name| name.trim().to_owned()).unwrap_or_default();
    let node = std::env::var("NODE").unwrap_or_else(|_| host.clone());
    let greeting = std::env::var("GREETING").unwrap_or_else(|_| "hello".to_owned());
    let service = Arc::new(Service { host: node, greeting, file, visits: AtomicU64::new(visits) });
    let listener = TcpListener::bind(("0.0.0.0", 8080))?;
    log(&format!("listening on port 8080, {visits} visits so far"));
    for connection in listener.incoming() {
        let Ok(connection) = connection else { continue };
        let service = Arc::clone(&service);
        std::thread::spawn(move || {
            if let Err(error) = answer(&service, connection) {
                log(&format!("a visitor went away: {error}"));
            }
        });
    }
    Ok(())
}

fn log(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn probe() -> std::io::Result<()> {
    let mut connection = TcpStream::connect(("127.0.0.1", 8080))?;
    connection.set_read_timeout(Some(Duration::from_secs(2)))?;
    connection.write_all(b"GET /healthy HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    if answer.contains(" 200 ") { Ok(()) } else { Err(std::io::Error::other(answer)) }
}

fn answer(service: &Service, mut connection: TcpStream) -> std::io::Result<()> {
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    let peer = connection.peer_addr()?;
    let mut reader = BufReader::new(connection.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header == "\r\n" {
            break;
        }
    }
    let body = if request.starts_with("GET /healthy ") {
        "healthy\n".to_owned()
    } else {
        let visits = service.visits.fetch_add(1, Ordering::Relaxed) + 1;
        // A count is worth less than an answer: a full or missing volume does not fail the visit.
        let _ = std::fs::write(&service.file, visits.to_string());
        log(&format!("visit {visits} from {}", peer.ip()));
        format!("{} from {}, visit {visits}\n", service.greeting, service.host)
    };
    write!(
        connection,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}
