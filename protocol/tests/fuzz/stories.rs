//! Stories to begin with, and changes that leave a story one that makes sense.

use crate::driver::Dice;

/// What a move begins with; see `make_move` in `fuzz/src/moves.rs`.
const PASS: u8 = 0;
const JUMP: u8 = 2;
const WORK: u8 = 3;
const ALL_CHUNKS: u8 = 8;
const CHUNK: u8 = 10;
const LANDED: u8 = 12;
const ANSWER: u8 = 14;
const OTHERS_GO_ON: u8 = 17;
const WORD: u8 = 18;
const COMMAND: u8 = 27;
const RESTART: u8 = 28;
const CONNECTION: u8 = 29;
const NOISE: u8 = 31;

/// What a word of each kind begins with; see `word` there.
const SUSPECT: u8 = 6;
const VIEW_ASK: u8 = 9;
const VIEW_PROPOSE: u8 = 13;
const VIEW_INSTALL: u8 = 16;
const STATE_OFFER: u8 = 19;
const JOIN: u8 = 4;
const CAUGHT_UP: u8 = 21;
const MARKET: u8 = 23;

/// What a word of the market or about the swarm begins with.
const REVOCATIONS: u8 = 6;
const HELLO: u8 = 7;

/// A word of identity 2 + `from` of a kind, with these fields.
fn word(from: u8, kind: u8, fields: &[u8]) -> Vec<u8> {
    [&[WORD, from, kind, 0], fields].concat()
}

/// Two exchanges and the end of their round, then `count - 1` rounds more.
fn rounds(count: usize) -> Vec<u8> {
    let exchange = [WORK, 0, ALL_CHUNKS, WORK, 0, ALL_CHUNKS, WORK, 0];
    let round = [&exchange[..], &exchange, &[WORK, 0, OTHERS_GO_ON, 0, PASS, 1]].concat();
    [&[WORK, 0, OTHERS_GO_ON, 0], &round.repeat(count)[..]].concat()
}

/// Everybody answers honestly, twice: what is held, and that it is agreed.
const AGREE: [u8; 4] = [ANSWER, 0, ANSWER, 0];

/// By name; the first byte says who founded the swarm, the second how the run begins.
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let story = |how: u8, moves: &[&[u8]]| [&[0, how], &moves.concat()[..]].concat();
    let lost = |from: u8, who: u8| word(from, SUSPECT, &[0, 0, who]);
    let zeros = [0; 24];
    vec![
        ("alone-with-one", story(0, &[&rounds(3)])),
        ("three-and-a-loss", story(1, &[&rounds(1), &lost(0, 1), &AGREE, &zeros, &rounds(2)])),
        ("four-and-silence", story(2, &[&rounds(1), &[JUMP, 2, 0, PASS, 120], &AGREE, &zeros, &rounds(1)])),
        (
            "comes-late",
            story(
                6,
                &[
                    &[WORK, 0, PASS, 200],
                    &word(0, VIEW_INSTALL, &[0, 1, 0, 4, 0]),
                    &word(0, STATE_OFFER, &[7, 0, 0]),
                    &[WORK, 0, ALL_CHUNKS, WORK, 0, ALL_CHUNKS],
                    &word(0, VIEW_INSTALL, &[0, 0, 5, 0, 0]),
                    &rounds(1),
                ],
            ),
        ),
        ("somebody-joins", {
            let join = word(3, JOIN, &[0, 0]);
            story(1, &[&rounds(1), &join, &AGREE, &zeros, &rounds(1), &word(3, CAUGHT_UP, &[0, 0]), &AGREE, &zeros])
        }),
        ("local-steps", story(57, &[&rounds(4), &AGREE, &zeros])),
        ("short-run", story(48, &[&rounds(2), &[WORK, 0, LANDED, 0, JUMP, 4, 0]])),
        ("restarts", story(1, &[&rounds(1), &[RESTART, 2, WORK, 0, PASS, 200], &AGREE, &zeros, &[JUMP, 3, 0], &AGREE])),
        (
            "all-restart",
            story(1, &[&rounds(1), &[RESTART, 2, WORK, 0, JUMP, 3, 0, ANSWER, 0, 5, 5, 0, 0, 5, 5, ANSWER, 0]]),
        ),
        ("another-proposes", {
            let (ask, propose) = (word(0, VIEW_ASK, &[0, 0, 0]), word(0, VIEW_PROPOSE, &[0, 0, 0, 4, 0, 0, 0, 0]));
            story(1, &[&rounds(1), &ask, &propose, &word(0, VIEW_INSTALL, &[0, 4, 0, 0, 0, 0, 0]), &rounds(1)])
        }),
        ("market", story(192, &[&[COMMAND, 6, 1, 0, 0, 0, 0, 0, 0, 0, PASS, 255, ANSWER, 0, PASS, 255, COMMAND, 2]])),
        ("invited", {
            // The founder and two guests say who they are; then one guest is shut out.
            let hello = |from: u8| word(from, MARKET, &[HELLO, 1, 0, 0, 0, 5, 0]);
            let revoked = word(0, MARKET, &[REVOCATIONS, 1, 5, 0]);
            let first = [hello(1), hello(2), word(0, MARKET, &[2, 1])].concat();
            [&[7][..], &[1], &first, &rounds(1), &revoked, &[PASS, 40], &rounds(1)].concat()
        }),
        ("wild-chunks", story(1, &[&rounds(1), &[CHUNK, 0, 130, 0, 1, 1, 0, 0, CHUNK, 0, 240, 240, 2, 1, 240, 240]])),
        ("last-view", {
            // A view of the highest number there is, then reasons for the next one.
            let install = word(0, VIEW_INSTALL, &[251, 0, 0, 0, 0, 0]);
            story(
                1,
                &[&rounds(1), &install, &word(3, JOIN, &[0, 0]), &lost(0, 1), &AGREE, &zeros, &[JUMP, 3, 0], &AGREE],
            )
        }),
        ("last-exchange", {
            // A view for the highest exchange there is, and work from there on.
            let install = word(0, VIEW_INSTALL, &[0, 4, 0, 0, 0, 0, 248, 40, 0]);
            story(1, &[&rounds(1), &install, &rounds(1), &word(3, CAUGHT_UP, &[0, 240]), &lost(0, 1), &AGREE, &zeros])
        }),
        ("noise", story(1, &[&[NOISE, 40], &[0xa2; 40], &[CONNECTION, 0, 0, PASS, 40]])),
    ]
}

/// Puts a move somewhere into a story: a word with fields near the truth, time, work or answers.
pub(crate) fn change(dice: &mut Dice, story: &[u8]) -> Option<Vec<u8>> {
    let at = 2.min(story.len()) + dice.below(story.len());
    let inserted = match dice.below(8) {
        0 => AGREE.to_vec(),
        1 => vec![PASS, dice.below(256) as u8],
        2 => vec![JUMP, dice.below(14) as u8, 0],
        3 => rounds(1),
        _ => {
            // The truth, a choice, a number that breaks things, or anything.
            let field = |dice: &mut Dice| match dice.below(8) {
                0..=4 => 0,
                5 => dice.below(8) as u8,
                6 => 240 + dice.below(16) as u8,
                _ => dice.below(256) as u8,
            };
            let fields: Vec<u8> = (0..dice.below(28)).map(|_| field(dice)).collect();
            word(dice.below(5) as u8, dice.below(24) as u8, &fields)
        }
    };
    let at = at.min(story.len());
    Some([&story[..at], &inserted, &story[at..]].concat())
}
