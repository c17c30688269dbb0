//! Pure. DNS messages: what arrives becomes a question or an end of the matter, and replies become bytes (RFC 1035, 6891).

use hickory_proto::op::{Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR, SRV};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};

use super::zone::{Data, Kind};

/// A message's header (RFC 1035, section 4.1.1).
const HEADER: usize = 12;
/// What UDP carries where nothing else was said.
const PLAIN_UDP: usize = 512;
/// More than this is never sent in one datagram, whatever the client says that it takes.
const LARGEST_UDP: usize = 4096;
/// What TCP carries.
const LARGEST_TCP: usize = 65535;
/// What upstream servers may send in one datagram: more is in danger of being broken up on the way (DNS Flag Day 2020).
pub(crate) const UPSTREAM_UDP: u16 = 1232;
/// An OPT record without options.
const OPT: usize = 11;

/// How a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// What a packet turned out to be.
#[derive(Debug)]
pub(crate) enum Received {
    /// A question.
    Query(Box<Asked>),
    /// Something else, which these bytes answer.
    Rejected(Vec<u8>),
    /// Nothing that may be answered: an answer to an answer would go on for ever.
    Silence,
}

/// A question.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// The client's.
    pub id: u16,
    /// As the client wrote it.
    pub name: Name,
    /// In lower case, without a final dot; `None`: it has characters that no name here has.
    pub key: Option<String>,
    pub record_type: RecordType,
    pub class: DNSClass,
    pub recursion_desired: bool,
    pub checking_disabled: bool,
    /// What the client said by EDNS.
    pub extended: Option<Extended>,
}

/// What a client says of itself by EDNS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extended {
    /// So many bytes it takes in one datagram.
    pub largest: u16,
    /// It wants signatures.
    pub dnssec: bool,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reply {
    pub code: ResponseCode,
    /// It is of our own names.
    pub authoritative: bool,
    /// The upstream server says that it checked signatures.
    pub authentic: bool,
    pub answers: Vec<Record>,
    pub authorities: Vec<Record>,
    pub additionals: Vec<Record>,
}

impl Reply {
    pub fn empty(code: ResponseCode) -> Self {
        Self {
            code,
            authoritative: false,
            authentic: false,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
        }
    }

    /// Found among our own names.
    pub fn found(asked: &Asked, data: Vec<Data>, time_to_live: u32) -> Self {
        let mut reply = Self { authoritative: true, ..Self::empty(ResponseCode::NoError) };
        let mut tell = |record: Data| {
            let data = match record {
                Data::Address(address) => address_data(address),
                Data::Pointer(target) => RData::PTR(PTR(name(&target)?)),
                Data::Service { port, target, addresses } => {
                    let target = name(&target)?;
                    let known = addresses.into_iter().map(address_data);
                    reply.additionals.extend(known.map(|data| Record::from_rdata(target.clone(), time_to_live, data)));
                    RData::SRV(SRV::new(0, 1, port, target))
                }
            };
            Some(Record::from_rdata(asked.name.clone(), time_to_live, data))
        };
        // A name of ours that DNS cannot carry, with a label of more than 63 bytes, is one that nobody can ask for.
        let answers: Vec<Record> = data.into_iter().filter_map(&mut tell).collect();
        reply.answers = answers;
        reply
    }

    /// A name of ours that does not exist.
    pub fn absent() -> Self {
        Self { authoritative: true, ..Self::empty(ResponseCode::NXDomain) }
    }
}

fn address_data(address: std::net::IpAddr) -> RData {
    match address {
        std::net::IpAddr::V4(address) => RData::A(A::from(address)),
        std::net::IpAddr::V6(address) => RData::AAAA(AAAA::from(address)),
    }
}

fn name(text: &str) -> Option<Name> {
    Name::from_labels(text.split('.').map(str::as_bytes)).ok()
}

impl Asked {
    /// The type, as far as our own names tell them apart.
    pub fn kind(&self) -> Kind {
        match self.record_type {
            RecordType::A => Kind::Address4,
            RecordType::AAAA => Kind::Address6,
            RecordType::PTR => Kind::Pointer,
            RecordType::SRV => Kind::Service,
            RecordType::ANY => Kind::Any,
            _ => Kind::Other,
        }
    }

    fn largest_answer(&self, transport: Transport) -> usize {
        match transport {
            Transport::Tcp => LARGEST_TCP,
            Transport::Udp => {
                self.extended.map_or(PLAIN_UDP, |extended| usize::from(extended.largest).clamp(PLAIN_UDP, LARGEST_UDP))
            }
        }
    }
}

/// Reads a packet from a client.
pub(crate) fn read(bytes: &[u8]) -> Received {
    // The header is looked at first: what claims thousands of questions gets no memory for them.
    let Some(header) = bytes.first_chunk::<HEADER>() else { return Received::Silence };
    if header[2] & 0x80 != 0 {
        return Received::Silence;
    }
    let id = u16::from_be_bytes([header[0], header[1]]);
    let op_code = header[2] >> 3 & 0x0f;
    if op_code != u8::from(OpCode::Query) {
        return Received::Rejected(bare(id, op_code, header[2] & 1 != 0, ResponseCode::NotImp));
    }
    let malformed = || Received::Rejected(bare(id, op_code, header[2] & 1 != 0, ResponseCode::FormErr));
    if header[4..6] != [0, 1] || header[6..8] != [0, 0] {
        return malformed();
    }
    let Ok(mut message) = Message::from_vec(bytes) else { return malformed() };
    let Some(query) = message.queries.pop() else { return malformed() };
    let asked = Asked {
        id,
        key: key(&query.name),
        name: query.name,
        record_type: query.query_type,
        class: query.query_class,
        recursion_desired: message.metadata.recursion_desired,
        checking_disabled: message.metadata.checking_disabled,
        extended: message
            .edns
            .as_ref()
            .map(|edns| Extended { largest: edns.max_payload(), dnssec: edns.flags().dnssec_ok }),
    };
    match message.edns {
        Some(edns) if edns.version() > 0 => {
            Received::Rejected(write(&asked, &Reply::empty(ResponseCode::BADVERS), Transport::Udp).bytes)
        }
        _ => Received::Query(Box::new(asked)),
    }
}

fn key(name: &Name) -> Option<String> {
    let mut key = String::with_capacity(name.len());
    for label in name.iter() {
        if !key.is_empty() {
            key.push('.');
        }
        for &byte in label {
            // A dot within a label would look like two labels.
            if !byte.is_ascii_graphic() || byte == b'.' {
                return None;
            }
            key.push(char::from(byte.to_ascii_lowercase()));
        }
    }
    Some(key)
}

/// A header and nothing else.
fn bare(id: u16, op_code: u8, recursion_desired: bool, code: ResponseCode) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    bytes[..2].copy_from_slice(&id.to_be_bytes());
    bytes[2] = 0x80 | op_code << 3 | u8::from(recursion_desired);
    bytes[3] = 0x80 | code.low();
    bytes
}

/// An answer, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    pub bytes: Vec<u8>,
    /// Records are missing: the client has to ask again over TCP.
    pub truncated: bool,
}

/// The bytes of a reply, cut to what the client takes.
pub(crate) fn write(asked: &Asked, reply: &Reply, transport: Transport) -> Written {
    let limit = asked.largest_answer(transport);
    let room = if asked.extended.is_some() { limit - OPT } else { limit };
    let mut message = Message::new(asked.id, MessageType::Response, OpCode::Query);
    message.metadata = metadata(asked, reply);
    let mut query = hickory_proto::op::Query::query(asked.name.clone(), asked.record_type);
    query.set_query_class(asked.class);
    message.queries.push(query);
    let Some((bytes, mut truncated)) = encode(&message, reply) else {
        // A reply that cannot be written is one that an upstream server should not have sent.
        let bytes = bare(asked.id, 0, asked.recursion_desired, ResponseCode::ServFail);
        return Written { bytes, truncated: false };
    };
    let mut written = Written { bytes, truncated };
    if written.bytes.len() > room {
        truncated |= cut(&mut written.bytes, room);
    }
    if truncated {
        written.bytes[2] |= 0x02;
        written.truncated = true;
    }
    if let Some(extended) = asked.extended {
        add_opt(&mut written.bytes, reply.code, extended.dnssec);
    }
    written
}

fn metadata(asked: &Asked, reply: &Reply) -> Metadata {
    let mut metadata = Metadata::new(asked.id, MessageType::Response, OpCode::Query);
    metadata.recursion_desired = asked.recursion_desired;
    metadata.recursion_available = true;
    metadata.checking_disabled = asked.checking_disabled;
    metadata.authoritative = reply.authoritative;
    metadata.authentic_data = reply.authentic;
    metadata.response_code = reply.code;
    metadata
}

/// The whole message, and whether not even TCP has room for all of its answers.
fn encode(message: &Message, reply: &Reply) -> Option<(Vec<u8>, bool)> {
    let mut answers = reply.answers.len();
    loop {
        let mut bytes = Vec::with_capacity(PLAIN_UDP);
        let header = hickory_proto::op::emit_message_parts(
            &message.metadata,
            &mut message.queries.iter(),
            &mut reply.answers.iter().take(answers),
            &mut reply.authorities.iter(),
            &mut reply.additionals.iter(),
            None,
            None,
            &mut BinEncoder::new(&mut bytes),
        )
        .ok()?;
        // The library leaves half a record behind where it has no room, so it is made to have some.
        if !header.metadata.truncation {
            return Some((bytes, answers < reply.answers.len()));
        }
        if answers == 0 {
            return None;
        }
        answers /= 2;
    }
}

/// Takes whole records off the end of a message until it fits, and sets the header's counts. Names are compressed by pointing
/// back only, so what stays can be read. Whether more is gone than what only came in addition.
fn cut(bytes: &mut Vec<u8>, room: usize) -> bool {
    let count = |at: usize| bytes.get(at..at + 2).map_or(0, |count| u16::from_be_bytes([count[0], count[1]]));
    // Questions, answers, authorities, additionals: two bytes each, from the fifth byte of the header on.
    let present = [count(4), count(6), count(8), count(10)];
    let mut kept = [0u16; 4];
    let mut end = HEADER;
    'sections: for (section, &count) in present.iter().enumerate() {
        for _ in 0..count {
            let after = after_name(bytes, end).and_then(|at| {
                if section == 0 {
                    return Some(at + 4);
                }
                let length = bytes.get(at + 8..at + 10)?;
                Some(at + 10 + usize::from(u16::from_be_bytes([length[0], length[1]])))
            });
            let Some(after) = after.filter(|&after| after <= room) else { break 'sections };
            end = after;
            kept[section] += 1;
        }
    }
    bytes.truncate(end);
    for (section, kept) in kept.iter().enumerate() {
        bytes[4 + 2 * section..6 + 2 * section].copy_from_slice(&kept.to_be_bytes());
    }
    kept[..3] != present[..3]
}

/// Where the name that begins here ends (RFC 1035, section 4.1.4).
fn after_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match usize::from(*bytes.get(at)?) {
            0 => return Some(at + 1),
            pointer if pointer >= 0xc0 => return Some(at + 2),
            length => at += 1 + length,
        }
    }
}

/// Appends an OPT record (RFC 6891, section 6.1.2). The library has none for a message that is full already.
fn add_opt(bytes: &mut Vec<u8>, code: ResponseCode, dnssec: bool) {
    let [largest_high, largest_low] = u16::try_from(LARGEST_UDP).unwrap_or(u16::MAX).to_be_bytes();
    let flags = if dnssec { 0x80 } else { 0 };
    bytes.extend([0, 0, 41, largest_high, largest_low, code.high(), 0, flags, 0, 0, 0]);
    if let Some(count) = bytes.get_mut(10..12) {
        let more = u16::from_be_bytes([count[0], count[1]]).saturating_add(1);
        count.copy_from_slice(&more.to_be_bytes());
    }
}

/// The question for an upstream server.
///
/// # Errors
/// When the library cannot write it.
pub(crate) fn question(asked: &Asked, id: u16, extended: bool) -> Result<Vec<u8>, hickory_proto::ProtoError> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.metadata.checking_disabled = asked.checking_disabled;
    let mut query = hickory_proto::op::Query::query(asked.name.clone(), asked.record_type);
    query.set_query_class(asked.class);
    message.queries.push(query);
    if extended {
        let mut edns = hickory_proto::op::Edns::new();
        edns.set_max_payload(UPSTREAM_UDP);
        edns.set_dnssec_ok(asked.extended.is_some_and(|extended| extended.dnssec));
        message.edns = Some(edns);
    }
    let mut bytes = Vec::with_capacity(64);
    message.emit(&mut BinEncoder::new(&mut bytes))?;
    Ok(bytes)
}

/// What an upstream server sent.
#[derive(Debug)]
pub(crate) enum Heard {
    /// The answer.
    Reply(Box<Reply>),
    /// The answer is too large for a datagram.
    Truncated,
    /// Something else: another's answer, or a forged one. The right one may still come.
    Other,
    /// The answer, but nobody can read it.
    Malformed,
}

/// Reads a packet from an upstream server, which was asked `asked` under `id`.
pub(crate) fn hear(bytes: &[u8], asked: &Asked, id: u16) -> Heard {
    let Some(header) = bytes.first_chunk::<HEADER>() else { return Heard::Other };
    if header[..2] != id.to_be_bytes() || header[2] & 0x80 == 0 {
        return Heard::Other;
    }
    let truncated = header[2] & 0x02 != 0;
    let questions = u16::from_be_bytes([header[4], header[5]]);
    // A server that did not understand the question need not repeat it.
    if questions == 0 && header[3] & 0x0f == ResponseCode::FormErr.low() {
        return Heard::Reply(Box::new(Reply::empty(ResponseCode::FormErr)));
    }
    if questions != 1 {
        return Heard::Other;
    }
    let Ok(message) = Message::from_vec(bytes) else {
        return if truncated { Heard::Truncated } else { Heard::Malformed };
    };
    let same = message.queries.first().is_some_and(|query| {
        query.name == asked.name && query.query_type == asked.record_type && query.query_class == asked.class
    });
    if !same {
        return Heard::Other;
    }
    if truncated {
        return Heard::Truncated;
    }
    Heard::Reply(Box::new(Reply {
        code: message.metadata.response_code,
        authoritative: false,
        authentic: message.metadata.authentic_data,
        answers: message.answers,
        authorities: message.authorities,
        additionals: message.additionals,
    }))
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
