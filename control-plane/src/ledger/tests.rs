use proto::ids::ContentHash;
use proto::message::ErrorCode;

use super::judge::{command, own, refusal_of};
use super::*;

#[test]
fn people_cannot_speak_for_each_other_nor_for_the_control_plane() {
    let step = Body::Complete {
        plan: ContentHash::of(b"p"),
    };
    let text = String::from_utf8(own(&step, 1).encode().unwrap()).unwrap();
    let (alice, itself): (PrincipalName, PrincipalName) = ("alice".parse().unwrap(), "control-plane".parse().unwrap());
    assert_eq!(command(&alice, &text, 1).unwrap_err().code, ErrorCode::Forbidden);
    let named = command(&itself, &text, 1).unwrap_err();
    assert_eq!(
        named.code,
        ErrorCode::Forbidden,
        "not even with a certificate of that name"
    );
    assert_eq!(command(&alice, "{", 1).unwrap_err().code, ErrorCode::Invalid);
}

#[test]
fn a_signature_for_another_size_of_the_log_is_a_conflict_and_bad_json_is_not() {
    let mut fleet = Fleet::default();
    let early = fleet
        .apply(
            &own(
                &Body::Complete {
                    plan: ContentHash::of(b"p"),
                },
                1,
            )
            .encode()
            .unwrap(),
        )
        .unwrap_err();
    assert_eq!(refusal_of(&early).code, ErrorCode::Conflict);
    assert_eq!(refusal_of(&fleet.apply(b"x").unwrap_err()).code, ErrorCode::Invalid);
}
