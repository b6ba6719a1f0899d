//! The VRF: published vectors, hostile bytes, separation of inputs.

use crate::{beacon, unhex};
use manta_protocol::election::{Domain, VrfOutput, VrfProof, VrfPublic, VrfSecret, election_input};
use manta_protocol::wire::Identity;
use proptest::prelude::*;

/// The test vector of c2sp.org/vrf-r255.
const SECRET: &str = "3431c2b03533e280b23232e280b34e2c3132c2b03238e280b23131e280b34500";
const PUBLIC: &str = "54136cd90d99fbd1d4e855d9556efea87ba0337f2a6ce22028d0f5726fcb854e";
const ALPHA: &str = "633273702e6f72672f7672662d72323535";
const PROOF: &str = "0a97d961262fb549b4175c5117860f42ae44a123f93c476c439eddd1c0cff926\
                     5c805525233e2284dbed45e593b8eea31d5ca9734d72bcbba9738d5237f955f3b2422351149d1312503b6441a47c940c";
const BETA: &str = "dd653f0879b48c3ef69e13551239bec4cbcc1c18fe8894de2e9e1c790e182736\
                    03bf1c6c25d7a797aeff3c43fd32b974d3fcbd4bcce916007097922a3ea3a794";

/// The order of the group, little-endian: the least scalar that is none.
const ORDER: &str = "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010";

#[test]
fn the_published_vector_passes() {
    let secret = VrfSecret::from_scalar(unhex(SECRET)).expect("a scalar");
    let (public, input) = (VrfPublic(unhex(PUBLIC)), unhex::<17>(ALPHA));
    let (proof, beta) = (VrfProof(unhex(PROOF)), VrfOutput(unhex(BETA)));
    assert_eq!(secret.public(), public);
    assert_eq!(secret.prove(&input), (beta, proof));
    assert_eq!(public.verify(&input, &proof), Some(beta));
}

#[test]
fn no_bit_of_a_proof_or_key_can_change() {
    let (public, input) = (VrfPublic(unhex(PUBLIC)), unhex::<17>(ALPHA));
    let proof = VrfProof(unhex(PROOF));
    for bit in 0..640 {
        let mut spoilt = proof;
        spoilt.0[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(public.verify(&input, &spoilt), None, "bit {bit} of the proof");
    }
    for bit in 0..256 {
        let mut other = public;
        other.0[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(other.verify(&input, &proof), None, "bit {bit} of the key");
    }
    for bit in 0..136 {
        let mut other = input;
        other[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(public.verify(&other, &proof), None, "bit {bit} of the input");
    }
}

#[test]
fn what_is_no_key_verifies_nothing() {
    let (input, proof) = (unhex::<17>(ALPHA), VrfProof(unhex(PROOF)));
    // The identity element; a negative, a non-canonical and a non-square field element (RFC 9496, A.2).
    let bad = [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "00ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "26948d35ca62e643e26a83177332e6b6afeb9d08e4268b650f1f5bbd8d81d371",
    ];
    for digits in bad {
        let public = VrfPublic(unhex(digits));
        assert!(!public.is_valid(), "{digits}");
        assert_eq!(public.verify(&input, &proof), None, "{digits}");
    }
    assert!(VrfPublic(unhex(PUBLIC)).is_valid());
    for scalar in [[0; 32], unhex(ORDER), [0xff; 32]] {
        assert!(VrfSecret::from_scalar(scalar).is_none());
    }
}

#[test]
fn a_response_has_one_encoding() {
    // s + q is the same scalar; a proof with it would be a second name for one vote.
    let mut proof = VrfProof(unhex(PROOF));
    let (mut carry, order) = (0u16, unhex::<32>(ORDER));
    for (byte, more) in proof.0[48..].iter_mut().zip(order) {
        carry += u16::from(*byte) + u16::from(more);
        *byte = carry.to_le_bytes()[0];
        carry >>= 8;
    }
    assert_eq!(VrfPublic(unhex(PUBLIC)).verify(&unhex::<17>(ALPHA), &proof), None);
}

#[test]
fn inputs_of_different_elections_differ() {
    let (one, two) = (beacon("one"), beacon("two"));
    let domains = [Domain::Beacon, Domain::Drill, Domain::Probe];
    let parts: [&[&[u8]]; 7] = [&[], &[b""], &[b"", b""], &[b"ab"], &[b"a", b"b"], &[b"", b"ab"], &[b"ab", b""]];
    let mut inputs: Vec<_> = [one, two]
        .iter()
        .flat_map(|beacon| domains.iter().map(move |domain| (beacon, domain)))
        .flat_map(|(beacon, domain)| parts.iter().map(move |parts| election_input(*domain, beacon, parts)))
        .collect();
    let count = inputs.len();
    inputs.sort();
    inputs.dedup();
    assert_eq!((count, inputs.len()), (42, 42));
}

#[test]
fn an_identity_has_one_vrf_key_that_does_not_show_in_print() {
    let identity = Identity::from_secret([1; 32]);
    let secret = identity.vrf();
    assert_eq!(secret.public(), VrfSecret::derive(&[1; 32]).public());
    assert_ne!(secret.public(), Identity::from_secret([2; 32]).vrf().public());
    assert_eq!(format!("{secret:?}"), format!("VrfSecret({:?})", secret.public()));
}

#[test]
fn tasks_under_one_output_draw_apart() {
    let (output, _) = VrfSecret::derive(&[3; 32]).prove(b"beacon");
    let (one, two) = (output.of_task(b"one"), output.of_task(b"two"));
    assert!(one != two && one != output && one == output.of_task(b"one"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn hostile_bytes_are_refused_without_a_panic(
        key in proptest::array::uniform32(any::<u8>()),
        head in proptest::array::uniform32(any::<u8>()),
        tail in proptest::collection::vec(any::<u8>(), 48),
        input in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut proof = [0; 80];
        proof[..32].copy_from_slice(&head);
        proof[32..].copy_from_slice(&tail);
        prop_assert_eq!(VrfPublic(key).verify(&input, &VrfProof(proof)), None);
        prop_assert_eq!(VrfPublic(unhex(PUBLIC)).verify(&input, &VrfProof(proof)), None);
    }
}
