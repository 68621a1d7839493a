//! The OpenAPI document of the pages that clients see.

use http::HeaderValue;

use super::{Answer, reply};

const DOCUMENT: &str = include_str!("openapi.json");

/// As it is served.
pub(super) fn document() -> Answer {
    reply::bytes(
        HeaderValue::from_static("application/json"),
        DOCUMENT.as_bytes().to_vec(),
    )
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::super::route;
    use super::*;

    #[test]
    fn every_call_of_the_document_is_answered_and_no_other_method_of_its_path() {
        let document: serde_json::Value = serde_json::from_str(DOCUMENT).unwrap();
        assert_eq!(document["openapi"], "3.1.0");
        for (path, calls) in document["paths"].as_object().unwrap() {
            let asked = path
                .replace("{model}", "m")
                .replace("{version}", "1")
                .replace("{region}", "r")
                .replace("{job}", "r:n:0")
                .replace("{receipt}", "r:n:0-0")
                .replace("{memory}", "systemsharedmemory");
            for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
                let said = calls.get(method.as_str().to_ascii_lowercase()).is_some();
                assert_eq!(route::of(&method, &asked).is_ok(), said, "{method} {path}");
            }
        }
    }
}
