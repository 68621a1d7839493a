//! Which address the client has: the peer's, or what a proxy that is believed says it forwards for.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use regions::prefix::Cidr;

/// The client's address. The header is read from its end: the last entry was written by the proxy next to us, and each
/// entry is believed only if the proxy that wrote it is.
#[must_use]
pub(super) fn of(peer: IpAddr, headers: &HeaderMap, believed: &[Cidr]) -> IpAddr {
    let trusted = |ip: IpAddr| believed.iter().any(|cidr| cidr.contains(ip));
    let mut client = peer.to_canonical();
    if !trusted(client) {
        return client;
    }
    for entry in entries(headers).into_iter().rev() {
        // What cannot be read hides who was before it: the last known proxy stands for them.
        let Some(ip) = entry else { return client };
        client = ip;
        if !trusted(client) {
            return client;
        }
    }
    client
}

/// Addresses of `Forwarded` (RFC 7239) or else `X-Forwarded-For`, first hop first; `None` for what is none.
fn entries(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let lines = |name: &str| -> Vec<String> {
        let values = headers
            .get_all(name)
            .iter()
            .map(|v| v.to_str().unwrap_or("?").to_owned());
        values
            .flat_map(|line| line.split(',').map(str::to_owned).collect::<Vec<_>>())
            .collect()
    };
    let forwarded = lines("forwarded");
    if forwarded.is_empty() {
        return lines("x-forwarded-for").iter().map(|text| address(text)).collect();
    }
    let node = |element: &String| {
        let mut pairs = element.split(';').filter_map(|pair| pair.split_once('='));
        pairs
            .find(|(key, _)| key.trim().eq_ignore_ascii_case("for"))
            .and_then(|(_, value)| address(value))
    };
    forwarded.iter().map(node).collect()
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:80`, quoted or not.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim().trim_matches('"');
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    let ip = bare
        .parse()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|a| a.ip()));
    ip.map(|ip: IpAddr| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn client(peer: &str, header: &str, value: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(
            http::HeaderName::from_bytes(header.as_bytes()).unwrap(),
            value.parse().unwrap(),
        );
        of(
            peer.parse().unwrap(),
            &headers,
            &["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
        )
        .to_string()
    }

    #[test]
    fn a_client_cannot_choose_its_place_by_a_header() {
        assert_eq!(client("203.0.113.9", "x-forwarded-for", "198.51.100.1"), "203.0.113.9");
        assert_eq!(
            client("10.0.0.1", "x-forwarded-for", "198.51.100.1, 203.0.113.9"),
            "203.0.113.9"
        );
    }

    #[test]
    fn what_a_believed_proxy_forwards_for_is_the_client() {
        assert_eq!(client("10.0.0.1", "x-forwarded-for", "203.0.113.9"), "203.0.113.9");
        assert_eq!(
            client("10.0.0.1", "x-forwarded-for", "203.0.113.9, 10.0.0.2"),
            "203.0.113.9"
        );
        assert_eq!(
            client(
                "10.0.0.1",
                "forwarded",
                "for=\"[2001:db8::7]:80\";proto=https, for=10.1.1.1"
            ),
            "2001:db8::7"
        );
        assert_eq!(
            client("::ffff:10.0.0.1", "forwarded", "For=203.0.113.9:4711"),
            "203.0.113.9"
        );
    }

    #[test]
    fn what_cannot_be_read_is_not_passed_over() {
        assert_eq!(
            client("10.0.0.1", "x-forwarded-for", "203.0.113.9, unknown"),
            "10.0.0.1"
        );
        assert_eq!(client("10.0.0.1", "forwarded", "for=_hidden"), "10.0.0.1");
    }

    proptest! {
        #[test]
        fn no_header_makes_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(value) = http::HeaderValue::from_bytes(&bytes) {
                for name in ["forwarded", "x-forwarded-for"] {
                    let headers = HeaderMap::from_iter([(http::HeaderName::from_static(name), value.clone())]);
                    let _ = of("10.0.0.1".parse().unwrap(), &headers, &["10.0.0.0/8".parse().unwrap()]);
                }
            }
        }
    }
}
