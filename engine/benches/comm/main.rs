//! Collectives and messages between processes, by transport, group size, message size and algorithm; and how exactly emulated links keep
//! to their plan. Prints Markdown.
//!
//! `cargo bench -p chariot-engine --bench comm`. Between hosts or network namespaces, one `--via ADDRESS=COMMAND` a rank: the address it
//! listens on, and the command that starts a process there, e.g. `-- --via '10.0.0.1=ip netns exec a' --via '10.0.0.2=ip netns exec b'`.
#![expect(clippy::print_stdout, reason = "a benchmark reports on stdout")]

mod rank;

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use chariot_engine::comm::secret::Secret;
use chariot_engine::comm::shm;

/// One rank's process.
struct Rank {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["rank", rank, world, transport, what, address] => {
            rank::run(rank.parse()?, world.parse()?, transport, what, address.parse()?)
        }
        [] => everything(),
        _ => between_hosts(&args),
    }
}

fn everything() -> anyhow::Result<()> {
    println!("{}", rank::HEADER);
    for transport in ["shm", "tcp"] {
        for world in [2, 4, 8] {
            measure(transport, "collectives", &vec![("127.0.0.1", ""); world])?;
        }
    }
    println!("\n{}", rank::PACED_HEADER);
    for transport in ["shm", "tcp"] {
        measure(transport, "paced", &[("127.0.0.1", ""); 8])?;
    }
    Ok(())
}

fn between_hosts(args: &[String]) -> anyhow::Result<()> {
    let mut places = Vec::new();
    for pair in args.chunks(2) {
        let place = pair.get(1).and_then(|place| place.split_once('='));
        anyhow::ensure!(pair[0] == "--via", "expected --via ADDRESS=COMMAND, found {}", pair[0]);
        places.push(place.ok_or_else(|| anyhow::anyhow!("expected ADDRESS=COMMAND after --via"))?);
    }
    println!("{}", rank::HEADER);
    measure("tcp", "collectives", &places)
}

/// Runs one process a place, (address, command before it), and passes on what rank 0 prints.
fn measure(transport: &str, what: &str, places: &[(&str, &str)]) -> anyhow::Result<()> {
    let memory = shm::create(places.len())?;
    let first = if transport == "shm" { memory.path().to_string() } else { Secret::random()?.to_hex() };
    let mut ranks = Vec::new();
    for (rank, (address, via)) in places.iter().enumerate() {
        ranks.push(start(rank, places.len(), transport, what, address, via)?);
    }
    let mut addresses = Vec::new();
    for rank in &mut ranks {
        writeln!(rank.stdin, "{first}")?;
        let mut line = String::new();
        rank.stdout.read_line(&mut line)?;
        addresses.push(line.trim().parse::<SocketAddr>()?.to_string());
    }
    for rank in &mut ranks {
        writeln!(rank.stdin, "{}", addresses.join(" "))?;
    }
    for line in (&mut ranks[0].stdout).lines() {
        println!("{}", line?);
    }
    for rank in &mut ranks {
        let status = rank.child.wait()?;
        anyhow::ensure!(status.success(), "a rank ended with {status}");
    }
    Ok(())
}

fn start(
    rank: usize,
    world: usize,
    transport: &str,
    what: &str,
    address: &str,
    via: &str,
) -> anyhow::Result<Rank> {
    let own = std::env::current_exe()?;
    let mut words = via.split_whitespace().map(std::ffi::OsStr::new).chain([own.as_os_str()]);
    let mut command = Command::new(words.next().unwrap_or(own.as_os_str()));
    command.args(words).args(["rank", &rank.to_string(), &world.to_string(), transport, what, address]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let stdin = child.stdin.take().expect("stdin is piped");
    let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
    Ok(Rank { child, stdin, stdout })
}
