//! Services and files whose other side misbehaves, or comes back.

use super::*;
use rstest::rstest;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// How a service answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Status(u16),
    /// So many times 503, and 200 from then on.
    Back(u32),
    /// Nothing, ever.
    Silence,
}

/// A service on this machine: where it is, and the requests that it gets.
async fn service(answer: Answer) -> (Destination, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/api/v1/lineage", listener.local_addr().unwrap()).parse().unwrap();
    let (requests, heard) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, answer, requests.clone()));
        }
    });
    let headers = Options(BTreeMap::from([("authorization".to_owned(), format!("Bearer {SECRET}"))]));
    (Destination::Http { url, headers }, heard)
}

/// Answers the requests of one connection.
async fn serve(mut stream: TcpStream, mut answer: Answer, requests: mpsc::UnboundedSender<String>) {
    let mut got = Vec::new();
    let mut buffer = [0; 4_096];
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        got.extend_from_slice(&buffer[..n]);
        let text = String::from_utf8_lossy(&got).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if body.len() < length.unwrap_or(0) {
            continue;
        }
        let _ = requests.send(text);
        got.clear();
        let status = match answer {
            Answer::Status(status) => Some(status),
            Answer::Back(0) => Some(200),
            Answer::Back(left) => {
                answer = Answer::Back(left - 1);
                Some(503)
            }
            Answer::Silence => None,
        };
        if let Some(status) = status {
            let said = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n");
            let _ = stream.write_all(said.as_bytes()).await;
        }
    }
}

#[tokio::test]
async fn events_are_posted_with_their_key() {
    let dir = TempDir::new().unwrap();
    let settings = settings(dir.path());
    let (to, mut heard) = service(Answer::Status(201)).await;
    assert!(!format!("{to:?}").contains(SECRET));
    let teller = Arc::new(Teller::start(&to));
    begin(&teller, &settings).end(&Outcome::Complete, &Facts::default());
    assert_eq!(teller.end(Duration::from_secs(10)).await, Counts { told: 2, dropped: 0 });
    for wanted in ["START", "COMPLETE"] {
        let request = heard.recv().await.unwrap();
        assert!(request.starts_with("POST /api/v1/lineage HTTP/1.1\r\n"), "{request}");
        assert!(request.contains(&format!("authorization: Bearer {SECRET}")), "{request}");
        assert!(request.contains("content-type: application/json"), "{request}");
        let body: Value = serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(body["eventType"], wanted);
    }
}

#[tokio::test]
async fn a_service_that_comes_back_is_told_all_of_it() {
    let dir = TempDir::new().unwrap();
    let settings = settings(dir.path());
    let (to, mut heard) = service(Answer::Back(2)).await;
    let teller = Arc::new(Teller::start(&to));
    begin(&teller, &settings).end(&Outcome::Complete, &Facts::default());
    assert_eq!(teller.end(Duration::from_secs(10)).await, Counts { told: 2, dropped: 0 });
    for wanted in ["START", "START", "START", "COMPLETE"] {
        assert!(heard.recv().await.unwrap().contains(&format!("\"{wanted}\"")));
    }
}

#[tokio::test]
async fn https_is_spoken_to_https() {
    let dir = TempDir::new().unwrap();
    let settings = settings(dir.path());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap()).parse().unwrap();
    let teller = Arc::new(Teller::start(&Destination::Http { url, headers: Options::default() }));
    begin(&teller, &settings).end(&Outcome::Complete, &Facts::default());
    let (mut stream, _) = listener.accept().await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), 0x16, "a handshake of TLS");
    drop((stream, listener));
    assert_eq!(teller.end(Duration::from_secs(10)).await, Counts { told: 0, dropped: 2 });
}

#[rstest]
#[case::hangs(Some(Answer::Silence))]
#[case::fails(Some(Answer::Status(500)))]
#[case::refuses_the_key(Some(Answer::Status(403)))]
#[case::leads_elsewhere(Some(Answer::Status(302)))]
#[case::is_not_there(None)]
#[tokio::test]
async fn a_service_that_is_away_holds_no_job(#[case] answer: Option<Answer>) {
    let dir = TempDir::new().unwrap();
    let settings = settings(dir.path());
    let to = match answer {
        Some(answer) => service(answer).await.0,
        None => {
            // a port that was just free
            let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
            let url = format!("http://127.0.0.1:{port}").parse().unwrap();
            Destination::Http { url, headers: Options::default() }
        }
    };
    let deadline = Duration::from_millis(300);
    let teller = Arc::new(Teller::start(&to));
    let began = Instant::now();
    let telling = begin(&teller, &settings);
    // more than wait for delivery at most
    for _ in 0..1_000 {
        telling.running();
    }
    telling.end(&Outcome::Complete, &Facts::default());
    // building a thousand events takes its time in a debug build
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let began = Instant::now();
    let counts = teller.end(deadline).await;
    // a slow machine has its time; a service that is silent is so for ever
    assert!(began.elapsed() < deadline + Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(counts, Counts { told: 0, dropped: 1_002 });
    begin(&teller, &settings).end(&Outcome::Complete, &Facts::default());
    assert_eq!(teller.counts().dropped, 1_004, "nothing is told after the end");
}

#[tokio::test]
async fn many_writers_share_a_file_line_by_line() {
    const EACH: usize = 60;
    let dir = TempDir::new().unwrap();
    let settings = settings(dir.path());
    let file = dir.path().join("lineage.jsonl");
    // as if its writer was killed midway
    std::fs::write(&file, "{\"half\":").unwrap();
    let tellers: Vec<_> = (0..4).map(|_| Arc::new(Teller::start(&Destination::File(file.clone())))).collect();
    for teller in &tellers {
        let telling = begin(teller, &settings);
        (2..EACH).for_each(|_| telling.running());
        telling.end(&Outcome::Complete, &Facts::default());
    }
    for teller in &tellers {
        assert_eq!(teller.end(Duration::from_secs(30)).await, Counts { told: EACH as u64, dropped: 0 });
    }
    let text = std::fs::read_to_string(&file).unwrap();
    let (half, whole) = text.split_once('\n').unwrap();
    assert_eq!(half, "{\"half\":");
    let whole: Vec<Value> = whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(whole.len(), 4 * EACH);
}

#[tokio::test]
async fn a_file_that_cannot_be_written_holds_no_job() {
    let dir = TempDir::new().unwrap();
    let settings = settings(dir.path());
    let teller = Arc::new(Teller::start(&Destination::File(dir.path().to_path_buf())));
    begin(&teller, &settings).end(&Outcome::Complete, &Facts::default());
    assert_eq!(teller.end(Duration::from_secs(10)).await, Counts { told: 0, dropped: 2 });
}
