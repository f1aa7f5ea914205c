//! A fake name server on the loopback, over UDP and TCP, that answers each query as a test says.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, RCODE, ResourceRecord, TYPE};

use super::TIMEOUT;
use super::client::Transport;

/// A query, as the script of a test sees it.
pub struct DnsQuery<'a> {
    /// The message.
    pub packet: Packet<'a>,
    /// The name in lower case.
    pub name: String,
    /// True if it came over TCP.
    pub is_tcp: bool,
    /// The address of the client.
    pub client: SocketAddr,
}

impl DnsQuery<'_> {
    /// True if the query is for records of this type.
    pub fn is_for(&self, record_type: TYPE) -> bool {
        self.packet.questions[0].qtype == record_type.into()
    }

    /// Returns a reply without records.
    pub fn reply(&self, code: RCODE) -> Packet<'_> {
        let mut reply = Packet::new_reply(self.packet.id());
        *reply.rcode_mut() = code;
        reply.set_flags(PacketFlag::RECURSION_AVAILABLE);
        reply.questions = self.packet.questions.clone();
        reply
    }

    /// Returns a reply with records of the names in front of them.
    pub fn records(&self, records: &[(&str, RData<'_>)]) -> Vec<u8> {
        let mut reply = self.reply(RCODE::NoError);
        reply.answers = records.iter().map(|(name, data)| record(name, data.clone())).collect();
        reply.build_bytes_vec_compressed().unwrap()
    }
}

fn record<'a>(name: &str, data: RData<'a>) -> ResourceRecord<'a> {
    ResourceRecord::new(Name::new(name).unwrap().into_owned(), CLASS::IN, 60, data)
}

/// Returns the data of an MX record.
pub fn mx(preference: u16, host: &str) -> RData<'_> {
    RData::MX(simple_dns::rdata::MX { preference, exchange: Name::new(host).unwrap() })
}

/// Returns the data of an address record.
pub fn a(address: [u8; 4]) -> RData<'static> {
    RData::A(simple_dns::rdata::A { address: u32::from_be_bytes(address) })
}

/// Returns the data of an alias.
pub fn cname(name: &str) -> RData<'_> {
    RData::CNAME(simple_dns::rdata::CNAME(Name::new(name).unwrap()))
}

/// A server that runs until it is dropped.
pub struct NameServer {
    pub address: SocketAddr,
    queries: Arc<AtomicUsize>,
    stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl NameServer {
    /// Starts it. `script` returns the messages that are sent in answer to a query.
    pub fn start(
        script: impl Fn(&DnsQuery<'_>) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) -> NameServer {
        let (udp, tcp) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
            // Another process may have the port of the other protocol.
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()) {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let (queries, stopping, script) = (Arc::default(), Arc::default(), Arc::new(script));
        let answer = {
            let queries: Arc<AtomicUsize> = Arc::clone(&queries);
            move |query: &[u8], is_tcp, client| {
                queries.fetch_add(1, Ordering::SeqCst);
                let packet = Packet::parse(query).unwrap();
                let name = packet.questions[0].qname.to_string().to_ascii_lowercase();
                script(&DnsQuery { packet, name, is_tcp, client })
            }
        };
        udp.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let (stop, answer_udp) = (Arc::<AtomicBool>::clone(&stopping), answer.clone());
        let over_udp = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !stop.load(Ordering::SeqCst) {
                let Ok((n, client)) = udp.recv_from(&mut buffer) else { continue };
                for reply in answer_udp(&buffer[..n], false, client) {
                    // The client may have gone.
                    let _ = udp.send_to(&reply, client);
                }
            }
        });
        let stop = Arc::<AtomicBool>::clone(&stopping);
        let over_tcp = std::thread::spawn(move || {
            for stream in tcp.incoming() {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let mut stream: TcpStream = stream.unwrap();
                stream.set_timeout(TIMEOUT);
                let client = stream.peer_addr().unwrap();
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut query).unwrap();
                for reply in answer(&query, true, client) {
                    let _ = stream.write_all(&reply);
                }
                // Until the client closes.
                let _ = stream.read_to_end(&mut Vec::new());
            }
        });
        NameServer { address, queries, stopping, threads: vec![over_udp, over_tcp] }
    }

    /// Returns the number of queries so far.
    pub fn queries(&self) -> usize {
        self.queries.load(Ordering::SeqCst)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

/// Returns `message` as it is sent over TCP.
pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap();
    [&length.to_be_bytes()[..], message].concat()
}

/// Writes a resolv.conf with these servers, which are each asked once, and waited for a second.
pub fn resolv_conf(directory: &std::path::Path, servers: &[SocketAddr]) -> PathBuf {
    let file = directory.join("resolv.conf");
    let servers = servers.iter().map(|s| format!("nameserver [{}]:{}\n", s.ip(), s.port()));
    let text = servers.collect::<String>() + "options timeout:1 attempts:1\n";
    std::fs::write(&file, text).unwrap();
    file
}
