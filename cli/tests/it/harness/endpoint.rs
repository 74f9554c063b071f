//! An HTTP service on this machine that answers well, badly, late, or never.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// At once, with this status.
    Status(u16),
    /// With 200, after so long.
    Late(Duration),
    /// Never.
    Silence,
    /// With headers that never end.
    Drip,
    /// By hanging up.
    Nothing,
}

/// The service. It goes on until the process ends.
pub struct Endpoint {
    /// Where it is.
    pub url: String,
    heard: Arc<Mutex<Vec<Request>>>,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Request {
    /// First line and headers.
    pub head: String,
    /// Body.
    pub body: String,
}

impl Endpoint {
    /// Starts one.
    pub fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let heard = Arc::new(Mutex::new(Vec::new()));
        let requests = heard.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let requests = requests.clone();
                std::thread::spawn(move || serve(stream, answer, &requests));
            }
        });
        Self { url, heard }
    }

    /// The requests so far.
    pub fn heard(&self) -> Vec<Request> {
        self.heard.lock().unwrap().clone()
    }
}

/// Serves one connection; `None` once the other side is gone.
fn serve(stream: TcpStream, answer: Answer, requests: &Mutex<Vec<Request>>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut stream = stream;
    loop {
        let request = read(&mut reader)?;
        requests.lock().unwrap().push(request);
        match answer {
            Answer::Status(status) => respond(&mut stream, status)?,
            Answer::Late(after) => {
                std::thread::sleep(after);
                respond(&mut stream, 200)?;
            }
            Answer::Silence => {}
            Answer::Drip => {
                stream.write_all(b"HTTP/1.1 200 OK\r\n").ok()?;
                loop {
                    stream.write_all(b"x-a: b\r\n").ok()?;
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
            Answer::Nothing => return None,
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    Some(Request { head, body: String::from_utf8_lossy(&body).into_owned() })
}

fn respond(stream: &mut TcpStream, status: u16) -> Option<()> {
    stream.write_all(format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n").as_bytes()).ok()
}
