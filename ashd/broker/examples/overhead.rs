//! What the broker adds to a call: the same calls, directly and through it, in turns.
//!
//! Run as root: `cargo run --release -p ash-broker --example overhead [rounds]`, after
//! `cargo build --release -p ash-broker`.

#![expect(clippy::print_stdout, reason = "the numbers are what it is for")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use std::{env, error, fs, process, thread};

use ash_broker::control::{self, Control, Launch, Limits, Peer, Settings};
use rustix::event::{PollFd, PollFlags};
use tracing::level_filters::LevelFilter;
use uuid::Uuid;

/// The user that the broker runs as.
const NOBODY: u32 = 65534;

/// Calls that are not counted, at the start.
const WARM_UP: usize = 200;

type Result<T> = std::result::Result<T, Box<dyn error::Error>>;

/// A broker that ends with the measurement.
struct Broker {
    child: process::Child,
    dir: PathBuf,
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Nothing is left to be done about a failure here.
        let _ = self.child.kill().and_then(|()| self.child.wait());
        let _ = fs::remove_dir_all(&self.dir);
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let rounds = env::args().nth(1).map_or(Ok(5000), |rounds| rounds.parse())?;
    let api = TcpListener::bind("127.0.0.1:0")?;
    let address = api.local_addr()?;
    thread::spawn(move || {
        api.incoming().flatten().for_each(|stream| drop(thread::spawn(|| serve(stream))))
    });
    let broker = start(&format!("http://{address}")).await?;
    let direct = TcpStream::connect(address)?;
    direct.set_nodelay(true)?;
    let relayed = UnixStream::connect(broker.dir.join("sandbox"))?;
    let measured = tokio::task::spawn_blocking(move || {
        let (mut direct, mut relayed) =
            (BufReader::new(Polled(direct)), BufReader::new(Polled(relayed)));
        for body in [200, 20_000] {
            let request = request(body);
            let pairs = (0..WARM_UP + rounds)
                .map(|_| Ok((call(&mut direct, &request)?, call(&mut relayed, &request)?)));
            report(body, &pairs.skip(WARM_UP).collect::<std::io::Result<Vec<_>>>()?);
        }
        Ok::<_, std::io::Error>(())
    });
    Ok(measured.await??)
}

/// Starts a broker and lets root be its sandbox. Nobody listens to its events: reading them would
/// compete for the processor with what is measured.
async fn start(upstream: &str) -> Result<Broker> {
    let dir = env::temp_dir().join(format!("ash-overhead-{}", process::id()));
    fs::create_dir(&dir)?;
    let program = env::current_exe()?.with_file_name("../ash-broker");
    let listener = control::listen(&dir.join("control"))?;
    let launch = Launch {
        program: &program,
        uid: NOBODY,
        gid: NOBODY,
        exit_when_unused: None,
        log: LevelFilter::INFO,
    };
    let child = launch.start(listener, |mut command| command.spawn())?;
    let (control, _events) = Control::connect(&dir.join("control")).await?;
    // As long as a real one, for which answers are searched.
    control.key(control::secret(&b"sk-ant-x".repeat(13))?.as_fd()).await?;
    let upstream = upstream.to_owned();
    let settings =
        Settings { upstream, proxy: None, allow_plaintext: false, limits: Limits::default() };
    control.configure(&settings, None).await?;
    let listener = UnixListener::bind(dir.join("sandbox"))?;
    control.grant(Uuid::nil(), Peer { uid: 0, session: None }, listener.as_fd()).await?;
    Ok(Broker { child, dir })
}

/// A stream that waits as clients with an event loop do. A thread that blocks in a read of a Unix
/// socket is also woken when its peer has taken what was written.
struct Polled<S>(S);

impl<S: Read + AsFd> Read for Polled<S> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        rustix::event::poll(&mut [PollFd::new(&self.0, PollFlags::IN)], None)?;
        self.0.read(buffer)
    }
}

impl<S: Write> Write for Polled<S> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

fn request(body: usize) -> Vec<u8> {
    let head = format!(
        "POST /v1/messages?beta=true HTTP/1.1\r\nHost: api\r\nContent-Type: application/json\r\n\
         X-Api-Key: placeholder\r\nanthropic-version: 2023-06-01\r\nContent-Length: {body}\r\n\r\n"
    );
    [head.into_bytes(), vec![b'x'; body]].concat()
}

/// Answers every call on a connection with 200 bytes of JSON.
fn serve(stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let body = format!("{{\"usage\":{{\"input_tokens\":1}},\"x\":\"{}\"}}", "x".repeat(164));
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length:";
    let answer = format!("{head} {}\r\n\r\n{body}", body.len());
    while message(&mut stream)? {
        stream.get_mut().write_all(answer.as_bytes())?;
    }
    Ok(())
}

fn call<S: Read + Write>(stream: &mut BufReader<S>, request: &[u8]) -> std::io::Result<Duration> {
    let start = Instant::now();
    stream.get_mut().write_all(request)?;
    message(stream)?;
    Ok(start.elapsed())
}

/// Reads a message with a length; false at the end of the connection.
fn message(stream: &mut impl BufRead) -> std::io::Result<bool> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Ok(false);
        }
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        } else if line.is_empty() {
            std::io::copy(&mut stream.take(length), &mut std::io::sink())?;
            return Ok(true);
        }
    }
}

fn report(body: usize, pairs: &[(Duration, Duration)]) {
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let of = |pick: fn(f64, f64) -> f64| {
        let times = pairs.iter().map(|(direct, relayed)| pick(micros(*direct), micros(*relayed)));
        let mut times: Vec<f64> = times.collect();
        times.sort_unstable_by(f64::total_cmp);
        format!(
            "p50 {:>7.1} µs, p99 {:>7.1} µs",
            times[times.len() / 2],
            times[times.len() * 99 / 100]
        )
    };
    println!("{body:>6} bytes  direct: {}", of(|direct, _| direct));
    println!("{body:>6} bytes relayed: {}", of(|_, relayed| relayed));
    println!("{body:>6} bytes   added: {}", of(|direct, relayed| relayed - direct));
}
