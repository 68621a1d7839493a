//! From the bytes of a query to the bytes of its answer: pure, bounded, and never a panic.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsCode, EdnsOption};
use hickory_proto::rr::rdata::{A, AAAA, NS, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use proto::ids::BoundaryId;
use regions::policy::Boundaries;
use regions::prefix::network_of;

use crate::metrics::DnsOutcome;

/// The largest UDP answer: fits one unfragmented IPv6 packet (DNS Flag Day 2020).
const UDP_BYTES_MAX: u16 = 1232;
/// What every client can take without EDNS (RFC 1035, section 4.2.1).
const UDP_BYTES_PLAIN: u16 = 512;
/// Additional records of a query that are read: OPT, TSIG and room for one more.
const ADDITIONALS_MAX: u16 = 3;
/// Extended DNS error "Prohibited" (RFC 8914, section 4.19).
const EDE_PROHIBITED: u16 = 18;
/// Extended DNS error "Other error" (RFC 8914, section 4.1).
const EDE_OTHER: u16 = 0;
/// Option code of extended DNS errors (RFC 8914, section 2).
const EDE_CODE: u16 = 15;
/// The boundary that the zone's own name stands for.
const APEX_BOUNDARY: &str = "global";

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Answers are bounded by what the client can take in one datagram.
    Udp,
    /// Answers are bounded by their 16-bit length.
    Tcp,
}

/// What steering says to a client at one address.
#[derive(Clone, Debug)]
pub struct Nearest {
    /// Where to go, best first; none if nobody allowed is up.
    pub addresses: Vec<IpAddr>,
    /// Whether data must stay somewhere.
    pub bounded: bool,
    /// The answer holds for all addresses that share this many leading bits.
    pub scope_len: u8,
    /// Grows with the view.
    pub serial: u64,
}

/// What the zone says of itself.
#[derive(Clone, Debug)]
pub struct Zone {
    apex: Name,
    nameservers: Vec<Name>,
    own: Name,
    address: Option<IpAddr>,
    ttl_s: u32,
    negative_ttl_s: u32,
}

impl Zone {
    /// The zone `apex`, served by `nameservers` or, if there are none, by `ns.<apex>` at `address`.
    ///
    /// # Errors
    /// A sentence about the name that is none.
    pub fn new(
        apex: &str,
        nameservers: &[String],
        address: Option<IpAddr>,
        ttl_s: u32,
        negative_ttl_s: u32,
    ) -> Result<Self, String> {
        let name = |text: &str| {
            let parsed = Name::from_ascii(text).ok().filter(|n| !n.is_root());
            let mut name = parsed
                .ok_or_else(|| format!("`{text}` is not a domain name"))?
                .to_lowercase();
            name.set_fqdn(true);
            Ok::<Name, String>(name)
        };
        let apex = name(apex)?;
        let own = apex
            .prepend_label("ns")
            .map_err(|_| format!("`{apex}` is too long for a zone"))?;
        let mut servers = nameservers.iter().map(|n| name(n)).collect::<Result<Vec<_>, _>>()?;
        if servers.is_empty() {
            servers.push(own.clone());
        }
        Ok(Self {
            apex,
            nameservers: servers,
            own,
            address,
            ttl_s,
            negative_ttl_s,
        })
    }
    /// The zone's name.
    #[must_use]
    pub fn apex(&self) -> &Name {
        &self.apex
    }
    fn soa(&self, serial: u64) -> Record {
        let contact = self
            .apex
            .prepend_label("hostmaster")
            .unwrap_or_else(|_| self.apex.clone());
        let serial = u32::try_from(serial % (1 << 32)).unwrap_or(0);
        let soa = SOA::new(
            self.nameservers[0].clone(),
            contact,
            serial,
            3600,
            600,
            86_400,
            self.negative_ttl_s,
        );
        Record::from_rdata(self.apex.clone(), self.negative_ttl_s, RData::SOA(soa))
    }
}

/// An answer to send, and what to count.
#[derive(Debug)]
pub struct Answer {
    /// The message.
    pub bytes: Vec<u8>,
    /// What became of the query.
    pub outcome: DnsOutcome,
}

/// Answers `query` from `peer`. `None`: nothing is sent back, because it is shorter than a header or itself an answer.
pub fn answer(
    zone: &Zone,
    query: &[u8],
    peer: IpAddr,
    transport: Transport,
    steer: &dyn Fn(&BoundaryId, IpAddr) -> Option<Nearest>,
) -> Option<Answer> {
    let (header, _) = query.split_at_checked(12)?;
    let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    if header[2] & 0x80 != 0 {
        return None;
    }
    let op = OpCode::from_u8(header[2] >> 3 & 0x0f);
    let refuse = |code, outcome| {
        let message = Message::error_msg(count(0), op, code);
        message.to_vec().ok().map(|bytes| Answer { bytes, outcome })
    };
    if op != OpCode::Query {
        return refuse(ResponseCode::NotImp, DnsOutcome::NotOffered);
    }
    // Looked at before the reader allocates by these counts.
    if count(4) != 1 || count(6) != 0 || count(8) != 0 || count(10) > ADDITIONALS_MAX {
        return refuse(ResponseCode::FormErr, DnsOutcome::Malformed);
    }
    let Ok(message) = Message::from_vec(query) else {
        return refuse(ResponseCode::FormErr, DnsOutcome::Malformed);
    };
    let mut reply = Reply::to(&message)?;
    let outcome = reply.fill(zone, &message, peer, steer);
    let bytes_max = match (transport, &message.edns) {
        (Transport::Tcp, _) => u16::MAX,
        (Transport::Udp, Some(edns)) => edns.max_payload().clamp(UDP_BYTES_PLAIN, UDP_BYTES_MAX),
        (Transport::Udp, None) => UDP_BYTES_PLAIN,
    };
    let bytes = reply.bytes(usize::from(bytes_max))?;
    Some(Answer { bytes, outcome })
}

/// An answer while it is filled.
struct Reply {
    message: Message,
    options: Vec<EdnsOption>,
    edns: bool,
    question: Query,
}

impl Reply {
    fn to(query: &Message) -> Option<Self> {
        let question = query.queries.first()?.clone();
        let mut message = Message::response(query.metadata.id, OpCode::Query);
        message.metadata.recursion_desired = query.metadata.recursion_desired;
        message.add_query(question.clone());
        Some(Self {
            message,
            options: Vec::new(),
            edns: query.edns.is_some(),
            question,
        })
    }
    fn fail(&mut self, code: ResponseCode, outcome: DnsOutcome) -> DnsOutcome {
        self.message.metadata.response_code = code;
        outcome
    }
    fn fill(
        &mut self,
        zone: &Zone,
        query: &Message,
        peer: IpAddr,
        steer: &dyn Fn(&BoundaryId, IpAddr) -> Option<Nearest>,
    ) -> DnsOutcome {
        if query.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return self.fail(ResponseCode::BADVERS, DnsOutcome::NotOffered);
        }
        let kind = self.question.query_type();
        let transfer = matches!(kind, RecordType::AXFR | RecordType::IXFR);
        if self.question.query_class() != DNSClass::IN || transfer || !zone.apex.zone_of(self.question.name()) {
            return self.fail(ResponseCode::Refused, DnsOutcome::Refused);
        }
        let subnet = match subnet(query) {
            Ok(subnet) => subnet,
            Err(()) => return self.fail(ResponseCode::FormErr, DnsOutcome::Malformed),
        };
        self.message.metadata.authoritative = true;
        let client = match &subnet {
            Some(subnet) if subnet.source_prefix() > 0 => subnet.addr(),
            _ => peer.to_canonical(),
        };
        let boundary = boundary_of(zone, self.question.name());
        // Without a boundary the name is not steered by, but the view's number is still the zone's serial.
        let asked = boundary
            .clone()
            .unwrap_or_else(|| APEX_BOUNDARY.parse().expect("a name of the right shape"));
        let Some(nearest) = steer(&asked, client) else {
            return self.fail(ResponseCode::ServFail, DnsOutcome::NotReady);
        };
        if let Some(mut subnet) = subnet {
            let steered = boundary.is_some() && subnet.source_prefix() > 0;
            subnet.set_scope_prefix(if steered { nearest.scope_len } else { 0 });
            self.options.push(EdnsOption::Subnet(subnet));
        }
        self.records(zone, boundary.is_some(), kind, &nearest)
    }
    fn records(&mut self, zone: &Zone, steered: bool, kind: RecordType, nearest: &Nearest) -> DnsOutcome {
        let name = self.question.name().clone();
        let (is_apex, is_own) = (name == zone.apex, name == zone.own);
        let mut put = |data| {
            self.message
                .add_answer(Record::from_rdata(name.clone(), zone.ttl_s, data))
                .answers
                .len()
        };
        let found = match kind {
            RecordType::SOA if is_apex => {
                self.message.add_answer(zone.soa(nearest.serial));
                1
            }
            RecordType::NS if is_apex => zone.nameservers.iter().map(|n| put(RData::NS(NS(n.clone())))).count(),
            RecordType::A | RecordType::AAAA | RecordType::ANY if is_own => {
                zone.address.iter().filter_map(|ip| data_of(kind, *ip)).map(put).count()
            }
            RecordType::A | RecordType::AAAA | RecordType::ANY if steered => nearest
                .addresses
                .iter()
                .filter_map(|ip| data_of(kind, *ip))
                .map(put)
                .count(),
            _ => 0,
        };
        if found > 0 {
            return DnsOutcome::Answered;
        }
        self.message.add_authority(zone.soa(nearest.serial));
        if !steered && !is_own {
            return self.fail(ResponseCode::NXDomain, DnsOutcome::NoName);
        }
        let address_asked = matches!(kind, RecordType::A | RecordType::AAAA | RecordType::ANY);
        if is_own || !nearest.addresses.is_empty() || !address_asked {
            return DnsOutcome::NoData;
        }
        let (code, text): (u16, &[u8]) = match nearest.bounded {
            true => (
                EDE_PROHIBITED,
                b"no node inside this boundary is up, and none outside may answer",
            ),
            false => (EDE_OTHER, b"no node is up"),
        };
        self.options
            .push(EdnsOption::Unknown(EDE_CODE, [&code.to_be_bytes(), text].concat()));
        DnsOutcome::NobodyAllowed
    }
    fn bytes(mut self, bytes_max: usize) -> Option<Vec<u8>> {
        if self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_BYTES_MAX);
            self.options
                .into_iter()
                .for_each(|option| edns.options_mut().insert(option));
            self.message.set_edns(edns);
        }
        let bytes = self.message.to_vec().ok()?;
        if bytes.len() <= bytes_max {
            Some(bytes)
        } else {
            self.message.truncate().to_vec().ok()
        }
    }
}

fn data_of(kind: RecordType, ip: IpAddr) -> Option<RData> {
    match ip {
        IpAddr::V4(v4) if kind != RecordType::AAAA => Some(RData::A(A(v4))),
        IpAddr::V6(v6) if kind != RecordType::A => Some(RData::AAAA(AAAA(v6))),
        _ => None,
    }
}

/// The boundary that `name`, which is in the zone, stands for.
fn boundary_of(zone: &Zone, name: &Name) -> Option<BoundaryId> {
    let extra = name.iter().count().checked_sub(zone.apex.iter().count())?;
    let boundary: BoundaryId = match extra {
        0 => APEX_BOUNDARY.parse().ok()?,
        1 => std::str::from_utf8(name.iter().next()?)
            .ok()?
            .to_ascii_lowercase()
            .parse()
            .ok()?,
        _ => return None,
    };
    Boundaries::builtin().contains(&boundary).then_some(boundary)
}

/// The client subnet of `query`, checked as RFC 7871, section 7.1.2 asks of a server.
fn subnet(query: &Message) -> Result<Option<ClientSubnet>, ()> {
    let Some(EdnsOption::Subnet(subnet)) = query.edns.as_ref().and_then(|e| e.option(EdnsCode::Subnet)) else {
        return Ok(None);
    };
    let len_max = if subnet.addr().is_ipv4() { 32 } else { 128 };
    let (source, scope) = (subnet.source_prefix(), subnet.scope_prefix());
    if scope != 0 || source > len_max || network_of(subnet.addr(), source, source) != subnet.addr() {
        return Err(());
    }
    Ok(Some(*subnet))
}

#[cfg(test)]
mod tests;
