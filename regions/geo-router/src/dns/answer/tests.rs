use std::net::Ipv4Addr;

use hickory_proto::op::MessageType;
use proptest::prelude::*;

use super::*;

fn zone() -> Zone {
    Zone::new("infer.meridian.test", &[], Some("192.0.2.53".parse().unwrap()), 10, 5).unwrap()
}

/// A fleet of two nodes in the EEA and nobody elsewhere; clients of 10/8 are near the first.
fn steer(boundary: &BoundaryId, client: IpAddr) -> Option<Nearest> {
    let near: IpAddr = if network_of(client, 8, 8) == IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0)) {
        "192.0.2.1".parse().unwrap()
    } else {
        "192.0.2.2".parse().unwrap()
    };
    let addresses = if boundary.as_str() == "jp" {
        Vec::new()
    } else {
        vec![near, "2001:db8::1".parse().unwrap()]
    };
    Some(Nearest {
        addresses,
        bounded: boundary.as_str() != "global",
        scope_len: 8,
        serial: 42,
    })
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn with_subnet(mut message: Message, subnet: &str) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    edns.options_mut().insert(EdnsOption::Subnet(subnet.parse().unwrap()));
    message.set_edns(edns);
    message
}

fn ask_over(message: &Message, transport: Transport) -> Message {
    let found = answer(
        &zone(),
        &message.to_vec().unwrap(),
        "203.0.113.9".parse().unwrap(),
        transport,
        &steer,
    );
    let reply = Message::from_vec(&found.unwrap().bytes).unwrap();
    assert_eq!(reply.metadata.id, message.metadata.id);
    assert_eq!(reply.metadata.message_type, MessageType::Response);
    reply
}

fn ask(message: &Message) -> Message {
    ask_over(message, Transport::Udp)
}

fn addresses(reply: &Message) -> Vec<String> {
    reply.answers.iter().map(|r| r.data.to_string()).collect()
}

#[test]
fn a_boundary_name_has_the_address_of_the_nearest_node_of_each_family() {
    let reply = ask(&query("eea.infer.meridian.test.", RecordType::A));
    assert!(reply.metadata.authoritative);
    assert_eq!(addresses(&reply), ["192.0.2.2"]);
    assert_eq!(reply.answers[0].ttl, 10);
    assert_eq!(
        addresses(&ask(&query("EeA.Infer.Meridian.TEST.", RecordType::AAAA))),
        ["2001:db8::1"]
    );
    assert_eq!(
        addresses(&ask(&query("infer.meridian.test.", RecordType::A))),
        ["192.0.2.2"]
    );
}

#[test]
fn the_client_subnet_counts_and_its_scope_is_told() {
    let reply = ask(&with_subnet(
        query("eea.infer.meridian.test.", RecordType::A),
        "10.1.2.0/24",
    ));
    assert_eq!(addresses(&reply), ["192.0.2.1"]);
    let edns = reply.edns.unwrap();
    let Some(EdnsOption::Subnet(subnet)) = edns.option(EdnsCode::Subnet) else {
        panic!("no subnet in {edns:?}")
    };
    assert_eq!((subnet.source_prefix(), subnet.scope_prefix()), (24, 8));
    assert_eq!(subnet.addr(), "10.1.2.0".parse::<IpAddr>().unwrap());
}

#[test]
fn a_client_that_hides_its_subnet_is_placed_by_its_resolver_and_the_answer_is_for_everybody() {
    let reply = ask(&with_subnet(
        query("eea.infer.meridian.test.", RecordType::A),
        "0.0.0.0/0",
    ));
    assert_eq!(addresses(&reply), ["192.0.2.2"]);
    let edns = reply.edns.unwrap();
    let Some(EdnsOption::Subnet(subnet)) = edns.option(EdnsCode::Subnet) else {
        panic!("no subnet in {edns:?}")
    };
    assert_eq!((subnet.source_prefix(), subnet.scope_prefix()), (0, 0));
}

#[test]
fn a_dead_boundary_is_nodata_with_ede_18_and_a_short_negative_ttl_and_never_another_address() {
    let mut message = query("jp.infer.meridian.test.", RecordType::A);
    message.set_edns(Edns::new());
    let reply = ask(&message);
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert!(reply.answers.is_empty());
    let RData::SOA(soa) = &reply.authorities[0].data else {
        panic!("no SOA in {reply:?}")
    };
    assert_eq!((soa.minimum, soa.serial, reply.authorities[0].ttl), (5, 42, 5));
    let edns = reply.edns.unwrap();
    let Some(EdnsOption::Unknown(EDE_CODE, bytes)) = edns.option(EdnsCode::Unknown(EDE_CODE)) else {
        panic!("no extended error in {edns:?}")
    };
    assert_eq!(bytes[..2], 18u16.to_be_bytes());
}

#[test]
fn the_zone_tells_of_itself_and_refuses_what_is_not_its_own() {
    let code = |name: &str, kind| ask(&query(name, kind)).metadata.response_code;
    assert_eq!(
        addresses(&ask(&query("infer.meridian.test.", RecordType::NS))),
        ["ns.infer.meridian.test."]
    );
    assert_eq!(
        addresses(&ask(&query("ns.infer.meridian.test.", RecordType::A))),
        ["192.0.2.53"]
    );
    assert!(matches!(
        ask(&query("infer.meridian.test.", RecordType::SOA)).answers[0].data,
        RData::SOA(_)
    ));
    assert_eq!(code("infer.meridian.test.", RecordType::TXT), ResponseCode::NoError);
    assert_eq!(
        code("atlantis.infer.meridian.test.", RecordType::A),
        ResponseCode::NXDomain
    );
    assert_eq!(
        code("a.eea.infer.meridian.test.", RecordType::A),
        ResponseCode::NXDomain
    );
    assert_eq!(code("meridian.test.", RecordType::A), ResponseCode::Refused);
    assert_eq!(code("example.com.", RecordType::A), ResponseCode::Refused);
    assert_eq!(code("infer.meridian.test.", RecordType::AXFR), ResponseCode::Refused);
}

#[test]
fn what_cannot_be_read_is_a_format_error_and_an_answer_is_not_answered() {
    let good = query("eea.infer.meridian.test.", RecordType::A).to_vec().unwrap();
    let found = |bytes: &[u8]| answer(&zone(), bytes, "203.0.113.9".parse().unwrap(), Transport::Udp, &steer);
    let code = |bytes: &[u8]| {
        Message::from_vec(&found(bytes).unwrap().bytes)
            .unwrap()
            .metadata
            .response_code
    };
    assert_eq!(code(&good[..good.len() - 3]), ResponseCode::FormErr);
    let mut many = good.clone();
    many[4..6].copy_from_slice(&u16::MAX.to_be_bytes());
    assert_eq!(code(&many), ResponseCode::FormErr);
    let mut update = good.clone();
    update[2] = 5 << 3;
    assert_eq!(code(&update), ResponseCode::NotImp);
    let mut response = good.clone();
    response[2] |= 0x80;
    assert!(found(&response).is_none() && found(&good[..11]).is_none() && found(&[]).is_none());
}

#[test]
fn a_subnet_with_bits_behind_its_length_or_an_edns_version_not_known_is_refused() {
    let mut message = query("eea.infer.meridian.test.", RecordType::A);
    let mut edns = Edns::new();
    edns.options_mut().insert(EdnsOption::Subnet(ClientSubnet::new(
        "10.1.2.3".parse().unwrap(),
        25,
        0,
    )));
    message.set_edns(edns);
    assert_eq!(ask(&message).metadata.response_code, ResponseCode::FormErr);
    let mut edns = Edns::new();
    edns.set_version(1);
    message.set_edns(edns);
    let code = u16::from(ask(&message).metadata.response_code);
    assert_eq!(code, u16::from(ResponseCode::BADVERS));
}

#[test]
fn an_answer_too_long_for_the_datagram_is_truncated_and_whole_over_tcp() {
    let servers: Vec<String> = (0..12).map(|i| format!("{}{i}.example.net", "x".repeat(50))).collect();
    let zone = Zone::new("infer.meridian.test", &servers, None, 10, 5).unwrap();
    let bytes = query("infer.meridian.test.", RecordType::NS).to_vec().unwrap();
    let over = |transport| {
        let found = answer(&zone, &bytes, "203.0.113.9".parse().unwrap(), transport, &steer)
            .unwrap()
            .bytes;
        (found.len(), Message::from_vec(&found).unwrap())
    };
    let (len, udp) = over(Transport::Udp);
    assert!(len <= 512 && udp.metadata.truncation && udp.answers.is_empty());
    let (_, tcp) = over(Transport::Tcp);
    assert!(!tcp.metadata.truncation);
    assert_eq!(tcp.answers.len(), 12);
}

proptest! {
    #[test]
    fn no_bytes_make_the_name_server_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = answer(&zone(), &bytes, "203.0.113.9".parse().unwrap(), Transport::Udp, &steer);
    }
    /// Goal: every damaged query that is answered is answered within its bound and under its own id.
    #[test]
    fn a_damaged_query_is_answered_within_bounds_or_not_at_all(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut: prop::sample::Index
    ) {
        let message = with_subnet(query("eea.infer.meridian.test.", RecordType::A), "10.1.2.0/24");
        let mut bytes = message.to_vec().unwrap();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        if let Some(found) = answer(&zone(), &bytes, "203.0.113.9".parse().unwrap(), Transport::Udp, &steer) {
            prop_assert!(found.bytes.len() <= 1232);
            prop_assert_eq!(&found.bytes[..2], &bytes[..2]);
        }
    }
}
