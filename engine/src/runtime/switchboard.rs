//! The driver's connections to all its workers, served by the one thread that asks: no message wakes two threads, and no send waits for a
//! receive. Knows no process and nothing of what is said.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::loss::Heard;
use super::protocol::{Report, parse, split_frame};

/// Bytes taken off a connection before the others have their turn.
const READ: usize = 1 << 16;

/// Ends a driver's wait from another thread.
#[derive(Debug, Clone)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    /// The driver looks up from its wait, at once or when it waits next.
    pub fn wake(&self) {
        // It only fails where so many wakes are not looked at yet that their number is full.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

/// One connection a rank, and a bell.
#[derive(Debug)]
pub(super) struct Switchboard {
    lines: Vec<Line>,
    bell: Waker,
    heard: VecDeque<(usize, Heard)>,
    /// What a read fills.
    chunk: Vec<u8>,
}

#[derive(Debug)]
struct Line {
    stream: TcpStream,
    /// Heard, and not yet a whole message.
    incoming: Vec<u8>,
    /// Said, and not yet taken by the operating system.
    outgoing: VecDeque<u8>,
    open: bool,
}

impl Switchboard {
    /// Without lines.
    pub(super) fn new() -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let (lines, heard, chunk) = (Vec::new(), VecDeque::new(), vec![0; READ]);
        Ok(Self { lines, bell: Waker(Arc::new(bell)), heard, chunk })
    }

    /// For other threads of this process.
    pub(super) fn waker(&self) -> Waker {
        self.bell.clone()
    }

    /// The line of the next rank.
    pub(super) fn add(&mut self, stream: TcpStream) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        self.lines.push(Line { stream, incoming: Vec::new(), outgoing: VecDeque::new(), open: true });
        Ok(())
    }

    /// Says the same to every worker, or finds one whose connection is closed. What a connection does not take at once it is given while
    /// the driver hears.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), usize> {
        let closed = |line: &mut Line| !line.open || line.send(bytes).is_err();
        self.lines.iter_mut().position(closed).map_or(Ok(()), Err)
    }

    /// The next thing heard, if any within `patience`.
    pub(super) fn hear(&mut self, patience: Duration) -> Option<(usize, Heard)> {
        if self.heard.is_empty() {
            for (rank, ready) in self.ready(patience) {
                self.serve(rank, ready);
            }
        }
        self.heard.pop_front()
    }

    /// Lines with news, by rank, and `None` for the bell, after `patience` at the latest.
    fn ready(&self, patience: Duration) -> Vec<(Option<usize>, PollFlags)> {
        let open = || self.lines.iter().enumerate().filter(|(_, line)| line.open);
        let mut polled = Vec::with_capacity(self.lines.len() + 1);
        polled.push(PollFd::from_borrowed_fd(self.bell.0.as_fd(), PollFlags::IN));
        polled.extend(open().map(|(_, line)| PollFd::from_borrowed_fd(line.stream.as_fd(), line.wants())));
        let patience =
            Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: i64::from(patience.subsec_nanos()) };
        // A signal ends it early, as if patience had.
        if poll(&mut polled, Some(&patience)).is_err() {
            return Vec::new();
        }
        let names = std::iter::once(None).chain(open().map(|(rank, _)| Some(rank)));
        let flags = polled.iter().map(PollFd::revents);
        names.zip(flags).filter(|(_, flags)| !flags.is_empty()).collect()
    }

    fn serve(&mut self, rank: Option<usize>, ready: PollFlags) {
        let Some(rank) = rank else {
            // Reading takes all wakes so far at once.
            let _ = rustix::io::read(&self.bell.0, &mut [0; 8]);
            self.heard.push_back((0, Heard::Woken));
            return;
        };
        let Self { lines, heard, chunk, .. } = self;
        let line = &mut lines[rank];
        let flushed = if ready.contains(PollFlags::OUT) { line.flush() } else { Ok(()) };
        let read = if ready == PollFlags::OUT { Ok(()) } else { line.read(chunk) };
        let parsed = line.take_reports(|report| heard.push_back((rank, Heard::Report(report))));
        if flushed.and(read).and(parsed).is_err() {
            line.open = false;
            heard.push_back((rank, Heard::Closed));
        }
    }
}

impl Line {
    fn wants(&self) -> PollFlags {
        if self.outgoing.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT }
    }

    fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if self.outgoing.is_empty() {
            let written = unless_busy(self.stream.write(bytes))?.unwrap_or(0);
            bytes = &bytes[written..];
        }
        self.outgoing.extend(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let written = unless_busy(self.stream.write(self.outgoing.as_slices().0))?.unwrap_or(0);
        self.outgoing.drain(..written);
        Ok(())
    }

    fn read(&mut self, chunk: &mut [u8]) -> io::Result<()> {
        match unless_busy(self.stream.read(chunk))? {
            Some(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.incoming.extend(&chunk[..count.unwrap_or(0)]);
                Ok(())
            }
        }
    }

    /// Takes every whole message off what was heard.
    fn take_reports(&mut self, mut take: impl FnMut(Report)) -> io::Result<()> {
        let mut rest = &self.incoming[..];
        while let Some((message, after)) = split_frame(rest)? {
            take(parse(message)?);
            rest = after;
        }
        let taken = self.incoming.len() - rest.len();
        self.incoming.drain(..taken);
        Ok(())
    }
}

/// `None`: nothing could be done now, which is no error.
fn unless_busy(done: io::Result<usize>) -> io::Result<Option<usize>> {
    match done {
        Ok(count) => Ok(Some(count)),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::runtime::protocol::{Beat, frame};

    const SOON: Duration = Duration::from_secs(20);
    const NOW: Duration = Duration::from_millis(1);

    fn board(ranks: usize) -> (Switchboard, Vec<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut board = Switchboard::new().unwrap();
        let connect = |_| {
            let worker = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            board.add(listener.accept().unwrap().0).unwrap();
            worker
        };
        let workers = (0..ranks).map(connect).collect();
        (board, workers)
    }

    fn alive(cpu_ns: u64) -> Vec<u8> {
        frame(&Report::Alive(Beat { cpu_ns, ..Beat::default() }))
    }

    fn expect_alive(heard: Option<(usize, Heard)>, rank: usize, cpu: u64) {
        match heard {
            Some((from, Heard::Report(Report::Alive(beat)))) => assert_eq!((from, beat.cpu_ns), (rank, cpu)),
            other => panic!("expected rank {rank} alive, found {other:?}"),
        }
    }

    #[test]
    fn a_message_is_heard_when_it_is_whole_and_two_in_one_go_one_after_the_other() {
        let (mut board, mut workers) = board(2);
        let (first, second) = (alive(1 << 40), [alive(1 << 41), alive(7)].concat());
        workers[0].write_all(&first[..3]).unwrap();
        assert!(board.hear(NOW).is_none());
        workers[1].write_all(&second).unwrap();
        expect_alive(board.hear(SOON), 1, 1 << 41);
        expect_alive(board.hear(SOON), 1, 7);
        workers[0].write_all(&first[3..]).unwrap();
        expect_alive(board.hear(SOON), 0, 1 << 40);
    }

    #[test]
    fn who_floods_does_not_keep_others_from_being_heard() {
        let (mut board, mut workers) = board(2);
        let mut flood = workers[0].try_clone().unwrap();
        let thread = std::thread::spawn(move || while flood.write_all(&alive(0).repeat(1000)).is_ok() {});
        expect_alive(board.hear(SOON), 0, 0);
        workers[1].write_all(&alive(9)).unwrap();
        let other = (0..1_000_000).find_map(|_| board.hear(SOON).filter(|(rank, _)| *rank == 1));
        expect_alive(other, 1, 9);
        drop(board);
        thread.join().unwrap();
    }

    /// Each waits for the other to read, and has more to say than a connection holds.
    #[test]
    fn a_worker_that_speaks_before_it_listens_is_sent_everything_nevertheless() {
        const LONG: usize = 32 << 20;
        let (mut board, mut workers) = board(1);
        let said = (0..LONG).map(|index| index as u8).collect::<Vec<u8>>();
        board.send(&said[..10]).unwrap();
        board.send(&said[10..]).unwrap();
        let mut worker = workers.remove(0);
        let thread = std::thread::spawn(move || {
            let logits = vec![0.0; LONG / 4];
            let report = Report::Exchanged { ns: vec![u64::MAX; logits.len()] };
            worker.write_all(&frame(&report)).unwrap();
            let mut heard = vec![0; LONG];
            worker.read_exact(&mut heard).unwrap();
            heard
        });
        let mut reports = 0;
        while !board.lines[0].outgoing.is_empty() || reports == 0 {
            reports += usize::from(board.hear(SOON).is_some());
        }
        assert!(thread.join().unwrap() == said);
    }

    #[test]
    fn an_end_is_told_once_and_after_what_came_before_and_so_is_nonsense() {
        for nonsense in [&[][..], &[255; 8]] {
            let (mut board, mut workers) = board(2);
            workers[1].write_all(&[&alive(3)[..], nonsense].concat()).unwrap();
            drop(workers.pop());
            expect_alive(board.hear(SOON), 1, 3);
            assert!(matches!(board.hear(SOON), Some((1, Heard::Closed))));
            assert!(board.hear(NOW).is_none());
            assert_eq!(board.send(&alive(0)), Err(1));
        }
    }

    #[test]
    fn a_bell_rung_before_the_wait_ends_it_and_many_rings_are_one() {
        let (mut board, _workers) = board(1);
        let waker = board.waker();
        (0..3).for_each(|_| waker.wake());
        assert!(matches!(board.hear(SOON), Some((_, Heard::Woken))));
        assert!(board.hear(NOW).is_none());
        let thread = std::thread::spawn(move || waker.wake());
        assert!(matches!(board.hear(SOON), Some((_, Heard::Woken))));
        thread.join().unwrap();
    }
}
