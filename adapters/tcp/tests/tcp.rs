//! The TCP port against its contract, and against peers that misbehave.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, in real time")]

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch::application::ports::{
    LinkId, MessagePort, PeerAddr, PortError, PortEvent, Priority, SendError, TimerPort,
};
use anabranch::infrastructure::system_timer::SystemTimer;
use anabranch::testing::message_port::{self, Fixture};
use anabranch_tcp::{TcpError, TcpOptions, TcpPort};
use async_trait::async_trait;
use bytes::Bytes;

/// How long what has to happen may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn on_runtime<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test)
}

fn options() -> TcpOptions {
    TcpPort::options().redial(Duration::from_millis(20), Duration::from_millis(200)).seed(1)
}

async fn listen(options: TcpOptions) -> (TcpPort, PeerAddr) {
    let port = options.bind("127.0.0.1:0").await.unwrap();
    let address = port.local_addr().unwrap().to_string().into();
    (port, address)
}

async fn next(port: &TcpPort) -> PortEvent {
    tokio::time::timeout(PATIENCE, port.recv())
        .await
        .expect("an event within patience")
        .expect("an open port")
}

async fn up(port: &TcpPort) -> LinkId {
    match next(port).await {
        PortEvent::Up { link, proven: None, .. } => link,
        other => panic!("{other:?} instead of Up"),
    }
}

async fn down(port: &TcpPort) -> (LinkId, Arc<str>) {
    match next(port).await {
        PortEvent::Down { link, reason } => (link, reason),
        other => panic!("{other:?} instead of Down"),
    }
}

async fn joined(server: TcpOptions, client: TcpOptions) -> (TcpPort, TcpPort, LinkId, LinkId) {
    let (server, address) = listen(server).await;
    let client = client.dial_only();
    let here = client.connect(&address).await.unwrap();
    assert_eq!(up(&client).await, here);
    let there = up(&server).await;
    (server, client, there, here)
}

struct Loopback {
    timer: Arc<dyn TimerPort>,
    options: TcpOptions,
}

#[async_trait]
impl Fixture for Loopback {
    async fn open(&self) -> (Arc<dyn MessagePort>, PeerAddr) {
        let (port, address) = listen(self.options.clone()).await;
        (Arc::new(port), address)
    }

    fn bad_address(&self) -> Option<PeerAddr> {
        Some("nowhere".into())
    }

    fn unreachable_address(&self) -> Option<PeerAddr> {
        // A port that was free a moment ago.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").ok()?;
        Some(listener.local_addr().ok()?.to_string().into())
    }

    fn timer(&self) -> Arc<dyn TimerPort> {
        self.timer.clone()
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }
}

fn conforms(options: TcpOptions, runtime: tokio::runtime::Runtime) {
    runtime.block_on(async {
        message_port::conformance(&Loopback { timer: Arc::new(SystemTimer::new()), options }).await;
    });
}

#[test]
fn the_tcp_port_conforms_on_one_thread() {
    conforms(options(), tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
}

#[test]
fn the_tcp_port_conforms_on_several_threads_and_without_redialling() {
    conforms(
        options().no_redial(),
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap(),
    );
}

#[test]
fn i6_a_frame_length_of_four_gigabytes_ends_the_link() {
    on_runtime(async {
        let (server, address) = listen(options()).await;
        let mut stream = std::net::TcpStream::connect(address.as_str()).unwrap();
        stream.write_all(&[2, 0, 0, 0, b'h', b'i', 0xff, 0xff, 0xff, 0xff, 1, 2, 3]).unwrap();
        let link = up(&server).await;
        assert_eq!(next(&server).await, PortEvent::Frame { link, frame: "hi".into() });
        let (gone, reason) = down(&server).await;
        assert!(gone == link && reason.contains("4294967295"), "{reason}");
    });
}

#[test]
fn a_frame_cut_off_half_way_is_dropped_with_its_link() {
    on_runtime(async {
        let (server, address) = listen(options()).await;
        let mut stream = std::net::TcpStream::connect(address.as_str()).unwrap();
        stream.write_all(&[1, 0, 0, 0, 7, 100, 0, 0, 0, 1, 2, 3]).unwrap();
        drop(stream);
        let link = up(&server).await;
        assert_eq!(next(&server).await, PortEvent::Frame { link, frame: Bytes::from_static(&[7]) });
        let (gone, reason) = down(&server).await;
        assert!(gone == link && reason.contains("within a frame"), "{reason}");
    });
}

#[test]
fn i6_a_writer_that_drips_bytes_loses_its_link_and_disturbs_nobody() {
    on_runtime(async {
        let (server, client, _, here) =
            joined(options().frame_timeout(Duration::from_millis(300)), TcpPort::options()).await;
        let address = server.local_addr().unwrap();
        let dripping = std::thread::spawn(move || {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            stream.write_all(&1_000u32.to_le_bytes()).unwrap();
            let began = Instant::now();
            while stream.write_all(&[0]).is_ok() && began.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(10));
            }
            began.elapsed()
        });
        let dripped_on = up(&server).await;
        client.try_send(here, "meanwhile".into(), Priority::Normal).unwrap();
        assert!(matches!(next(&server).await, PortEvent::Frame { frame, .. } if frame == "meanwhile"));
        let (gone, reason) = down(&server).await;
        assert!(gone == dripped_on && reason.contains("longer than"), "{reason}");
        assert!(dripping.join().unwrap() < PATIENCE, "the writer noticed");
        // A frame that comes slowly but in time is fine, and so is a link that says nothing for long.
        tokio::time::sleep(Duration::from_millis(500)).await;
        client.try_send(here, "still here".into(), Priority::Normal).unwrap();
        assert!(matches!(next(&server).await, PortEvent::Frame { frame, .. } if frame == "still here"));
    });
}

#[test]
fn i6_a_peer_that_floods_is_slowed_down_while_nobody_receives() {
    on_runtime(async {
        let queue = 256 << 10;
        let (server, address) = listen(options().queue_bytes(queue)).await;
        let mut stream = std::net::TcpStream::connect(address.as_str()).unwrap();
        stream.set_nonblocking(true).unwrap();
        let frame = [&1_000u32.to_le_bytes()[..], &[9; 1_000]].concat();
        let mut sent = 0;
        let mut idle_since = Instant::now();
        // The kernel's buffers take what the port does not.
        while idle_since.elapsed() < Duration::from_millis(500) {
            match stream.write(&frame[sent % frame.len()..]) {
                Ok(written) => (sent, idle_since) = (sent + written, Instant::now()),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
        up(&server).await;
        let (mut held, mut frames) = (0, 0);
        while let Ok(Ok(PortEvent::Frame { frame, .. })) =
            tokio::time::timeout(Duration::from_millis(500), server.recv()).await
        {
            (held, frames) = (held + 4 + frame.len(), frames + 1);
        }
        assert_eq!(held, sent / 1_004 * 1_004, "nothing is lost once somebody receives ({frames} frames)");
        assert!(sent > queue, "the flood reached the limit");
    });
}

#[test]
fn urgent_frames_find_room_and_pass_what_is_queued() {
    on_runtime(async {
        let (server, client, _, here) = joined(options(), options()).await;
        let mut sent = 0;
        // Until nothing moves any more: the queues of both ports and the kernel's buffers are full.
        loop {
            while client.try_send(here, vec![0; 60_000].into(), Priority::Normal).is_ok() {
                sent += 1;
            }
            if tokio::time::timeout(Duration::from_millis(500), client.recv()).await.is_err() {
                break;
            }
        }
        assert_eq!(client.try_send(here, "urgent".into(), Priority::High), Ok(()));
        let mut before = 0;
        loop {
            match next(&server).await {
                PortEvent::Frame { frame, .. } if frame == "urgent" => break,
                PortEvent::Frame { .. } => before += 1,
                other => panic!("{other:?}"),
            }
        }
        // More than half of a queue of 17 was full, and of that one batch of 5 was on its way already.
        assert!(sent - before >= 4, "{before} of {sent} came first");
    });
}

#[test]
fn a_server_that_restarts_is_dialled_again_under_a_new_link() {
    on_runtime(async {
        let (server, client, _, here) = joined(options(), options()).await;
        let address = server.local_addr().unwrap().to_string();
        server.close().await;
        assert_eq!(down(&client).await.0, here);
        assert_eq!(client.try_send(here, Bytes::new(), Priority::Normal), Err(SendError::LinkDown));
        tokio::time::sleep(Duration::from_millis(100)).await;
        let server = options().bind(&address).await.expect("closing freed the port");
        let again = up(&client).await;
        assert_ne!(again, here);
        let there = up(&server).await;
        client.try_send(again, "back".into(), Priority::Normal).unwrap();
        assert_eq!(next(&server).await, PortEvent::Frame { link: there, frame: "back".into() });
        let stats = client.stats();
        assert!(stats.redialled == 1 && stats.redial_failures > 0, "{stats:?}");
    });
}

#[test]
fn disconnecting_a_lost_link_ends_its_redialling() {
    on_runtime(async {
        let (server, client, _, here) = joined(options(), options()).await;
        let address = server.local_addr().unwrap().to_string();
        server.close().await;
        assert_eq!(down(&client).await.0, here);
        client.disconnect(here);
        let server = options().bind(&address).await.unwrap();
        assert!(
            tokio::time::timeout(Duration::from_millis(600), server.recv()).await.is_err(),
            "it was dialled"
        );
        assert_eq!(client.stats().redialled, 0);
    });
}

#[test]
fn a_server_that_drops_every_link_is_not_dialled_without_pause() {
    on_runtime(async {
        let (server, address) = listen(options().max_inbound(0)).await;
        let client = options().dial_only();
        client.connect(&address).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let refused = server.stats().refused;
        assert!((3..=20).contains(&refused), "dialled {refused} times in a second");
    });
}

#[test]
fn i6_a_thousand_links_beyond_the_cap_are_refused_and_the_others_go_on() {
    on_runtime(async {
        let (server, client, there, here) = joined(options().max_inbound(10), options()).await;
        let address = server.local_addr().unwrap();
        let streams: Vec<_> = (0..1_009).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        let began = Instant::now();
        while server.stats().refused < 1_000 && began.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!((server.stats().accepted, server.stats().refused), (10, 1_000));
        for _ in 0..9 {
            up(&server).await;
        }
        let refused = streams.iter().filter(|stream| {
            stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
            !matches!((&**stream).read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
        });
        assert_eq!(refused.count(), 1_000);
        client.try_send(here, "still here".into(), Priority::Normal).unwrap();
        assert_eq!(next(&server).await, PortEvent::Frame { link: there, frame: "still here".into() });
        // A slot is free again once its `Down` was received.
        drop(streams);
        for _ in 0..9 {
            down(&server).await;
        }
        let _again = std::net::TcpStream::connect(address).unwrap();
        up(&server).await;
    });
}

#[test]
fn closing_leaves_no_task_and_no_listener_behind() {
    on_runtime(async {
        let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
        let before = tasks();
        let (server, client, _, here) = joined(options(), options()).await;
        let gone: PeerAddr = server.local_addr().unwrap().to_string().into();
        // One link up, one lost and being dialled again.
        let (lost, address) = listen(options()).await;
        client.connect(&address).await.unwrap();
        up(&client).await;
        lost.close().await;
        down(&client).await;
        client.try_send(here, vec![1; 60_000].into(), Priority::Normal).unwrap();
        assert!(tasks() > before);
        client.close().await;
        server.close().await;
        assert!(matches!(client.recv().await, Err(PortError::Closed)));
        let began = Instant::now();
        while tasks() > before && began.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(tasks(), before);
        assert!(std::net::TcpStream::connect(gone.as_str()).is_err());
    });
}

#[test]
fn what_was_sent_just_before_closing_arrives() {
    on_runtime(async {
        let (server, client, there, here) = joined(options(), options()).await;
        for number in 0..15u8 {
            client.try_send(here, vec![number; 60_000].into(), Priority::Normal).unwrap();
        }
        let reading = async {
            for number in 0..15u8 {
                let frame = vec![number; 60_000].into();
                assert!(next(&server).await == PortEvent::Frame { link: there, frame });
            }
            assert_eq!(down(&server).await.0, there);
        };
        futures::join!(reading, client.close());
    });
}

#[test]
fn a_port_without_a_runtime_says_so() {
    let port = TcpPort::dial_only();
    let refused = futures::FutureExt::now_or_never(port.connect(&"127.0.0.1:1".into()));
    assert!(matches!(refused, Some(Err(PortError::Failed(_)))));
    let refused = futures::FutureExt::now_or_never(TcpPort::bind("127.0.0.1:0"));
    assert!(matches!(refused, Some(Err(TcpError::NoRuntime))));
}

#[test]
fn an_address_that_is_taken_is_refused_with_its_name() {
    on_runtime(async {
        let (_server, address) = listen(options()).await;
        let refused = TcpPort::bind(address.as_str()).await;
        assert!(
            matches!(&refused, Err(error) if error.to_string().contains(address.as_str())),
            "{refused:?}"
        );
    });
}

/// Run with `--release -- --ignored --nocapture`: bytes per second over loopback in frames of 64 KiB.
#[test]
#[ignore = "a measurement"]
fn throughput_over_loopback() {
    on_runtime(async {
        const FRAMES: usize = 32_768;
        let (server, client, _, here) = joined(TcpPort::options(), TcpPort::options()).await;
        let frame = Bytes::from(vec![7; 64 << 10]);
        let began = Instant::now();
        let sending = tokio::spawn(async move {
            for _ in 0..FRAMES {
                while let Err(SendError::Full) = client.try_send(here, frame.clone(), Priority::Normal) {
                    next(&client).await;
                }
            }
            client
        });
        let mut bytes = 0;
        while bytes < FRAMES * (64 << 10) {
            if let PortEvent::Frame { frame, .. } = next(&server).await {
                bytes += frame.len();
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        println!("{bytes} bytes in {seconds:.2} s: {:.2} GB/s", bytes as f64 / seconds / 1e9);
        drop(sending.await);
    });
}
