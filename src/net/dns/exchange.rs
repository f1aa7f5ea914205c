//! One query: sent to one name server after the other until one answers it.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Instant;

use simple_dns::{
    CLASS, Name, OPCODE, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE, header_buffer,
};

use super::DnsError;
use super::resolv_conf::NameServers;
use crate::net::deadline::{is_early, time_left};

/// Returns the first reply that answers the question: with the code for success, or for a name that
/// does not exist.
///
/// # Errors
/// No server answers until `deadline` or in its attempts.
pub(super) fn query(
    servers: &NameServers,
    name: &Name<'_>,
    record_type: TYPE,
    deadline: Instant,
) -> Result<Vec<u8>, DnsError> {
    let mut last = "no answer".to_owned();
    for _ in 0..servers.attempts {
        for server in &servers.servers {
            let deadline = deadline.min(Instant::now() + servers.timeout);
            if time_left(deadline).is_err() {
                return Err(DnsError::Temporary(last));
            }
            match ask(*server, name, record_type, deadline) {
                Ok(reply) => return Ok(reply),
                Err(e) => last = format!("name server {}: {e}", server.ip()),
            }
        }
    }
    Err(DnsError::Temporary(last))
}

/// Queries one server, over TCP if the reply over UDP was cut short.
fn ask(
    server: SocketAddr,
    name: &Name<'_>,
    record_type: TYPE,
    deadline: Instant,
) -> io::Result<Vec<u8>> {
    let id = random_id();
    let question = Question::new(name.clone(), QTYPE::TYPE(record_type), CLASS::IN.into(), false);
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    packet.questions.push(question.clone());
    let query = packet.build_bytes_vec().map_err(|e| io::Error::other(e.to_string()))?;
    let mut reply = ask_udp(server, &query, id, &question, deadline)?;
    if header_buffer::has_flags(&reply, PacketFlag::TRUNCATION).unwrap_or(false) {
        reply = ask_tcp(server, &query, deadline)?;
        if !is_reply_to(&reply, id, &question) {
            return Err(io::Error::other("the reply over TCP is for another query"));
        }
    }
    match header_buffer::rcode(&reply) {
        Ok(RCODE::NoError | RCODE::NameError) => Ok(reply),
        Ok(code) => Err(io::Error::other(format!("error {code:?}"))),
        Err(e) => Err(io::Error::other(e.to_string())),
    }
}

/// Returns the first reply to the query. Other datagrams are ignored, because any host can
/// forge them.
fn ask_udp(
    server: SocketAddr,
    query: &[u8],
    id: u16,
    question: &Question<'_>,
    deadline: Instant,
) -> io::Result<Vec<u8>> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    // The system then drops datagrams from other addresses, and reports a closed port.
    socket.connect(server)?;
    socket.send(query)?;
    let mut buffer = vec![0; UDP_MAX];
    loop {
        socket.set_read_timeout(Some(time_left(deadline)?))?;
        match socket.recv(&mut buffer) {
            Ok(n) => {
                let reply = buffer.get(..n).unwrap_or_default();
                if is_reply_to(reply, id, question) {
                    return Ok(reply.to_owned());
                }
            }
            Err(e) if is_early(&e) => {}
            Err(e) => return Err(e),
        }
    }
}

/// Returns the reply over TCP, where the length comes before the message (RFC 1035 4.2.2).
fn ask_tcp(server: SocketAddr, query: &[u8], deadline: Instant) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, time_left(deadline)?)?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(query);
    // It fits into the socket's buffer.
    stream.set_write_timeout(Some(time_left(deadline)?))?;
    stream.write_all(&framed)?;
    let mut length = [0; 2];
    read_exact(&mut stream, &mut length, deadline)?;
    let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
    read_exact(&mut stream, &mut reply, deadline)?;
    Ok(reply)
}

/// Fills `buffer`, with one deadline for all of it.
fn read_exact(stream: &mut TcpStream, buffer: &mut [u8], deadline: Instant) -> io::Result<()> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        stream.set_read_timeout(Some(time_left(deadline)?))?;
        match stream.read(rest) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => filled += n,
            Err(e) if is_early(&e) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// True if `reply` is a reply to the query with this id and question. A reply without a question is
/// none, because some forged ones would be taken.
fn is_reply_to(reply: &[u8], id: u16, question: &Question<'_>) -> bool {
    // The id first, because it costs least.
    if header_buffer::id(reply).ok() != Some(id) || !has_plausible_counts(reply) {
        return false;
    }
    let Ok(packet) = Packet::parse(reply) else { return false };
    let [asked] = &packet.questions[..] else { return false };
    packet.has_flags(PacketFlag::RESPONSE)
        && packet.opcode() == OPCODE::StandardQuery
        && asked.qname == question.qname
        && asked.qtype == question.qtype
        && asked.qclass == QCLASS::CLASS(CLASS::IN)
}

/// True if the message has room for as many records as its header says. The parser allocates memory
/// for them before it reads them.
fn has_plausible_counts(message: &[u8]) -> bool {
    let counts = [
        header_buffer::answers(message),
        header_buffer::name_servers(message),
        header_buffer::additional_records(message),
    ];
    let records: usize = counts
        .into_iter()
        .map(|n| n.map_or(usize::MAX, usize::from))
        .fold(0, usize::saturating_add);
    header_buffer::questions(message).is_ok_and(|n| n == 1)
        && records.saturating_mul(RECORD_SIZE_MIN) <= message.len()
}

/// Returns an id that cannot be guessed: SipHash with a key from the system's random numbers, which
/// is another one for each call.
fn random_id() -> u16 {
    let [.., high, low] = RandomState::new().hash_one(0).to_be_bytes();
    u16::from_be_bytes([high, low])
}

/// Size in bytes of the smallest record: the root's name, and the fields of a fixed size (RFC 1035
/// 4.1.3).
const RECORD_SIZE_MIN: usize = 11;
/// Maximum size in bytes of a reply over UDP, larger than a server may send (RFC 1035 2.3.4), so
/// that a truncated reply cannot be mistaken for a complete one.
const UDP_MAX: usize = 4096;
