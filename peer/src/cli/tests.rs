//! Arguments: what is accepted, what is refused and how, what the help teaches.

use super::{Cli, Command};
use clap::{CommandFactory as _, Parser as _};

fn parse(line: &str) -> Result<Cli, String> {
    Cli::try_parse_from(line.split_whitespace()).map_err(|error| error.to_string())
}

fn help(command: &str) -> String {
    let mut cli = Cli::command();
    cli.build();
    match command {
        "" => cli.render_help().to_string(),
        name => cli.find_subcommand_mut(name).expect("a command").render_help().to_string(),
    }
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_parses_with_its_documented_flags() {
    for line in [
        "manta up",
        "manta up --join T --join /ip4/1.2.3.4/tcp/5 --listen /ip4/0.0.0.0/udp/0/quic-v1 --http [::1]:0 --network n \
         --no-mdns --region eu --threads 2 --no-offer --duration-max 6h --congestion bbr --json --exit-with-stdin",
        "manta up --invite-only --network lab",
        "manta invite",
        "manta invite --own --expires 7d --json",
        "manta invite --list --json",
        "manta revoke 0123abcd --json",
        "manta train --out model",
        "manta train --data t --out d --share open --yes",
        "manta train --data t --out d --from model --learning-rate 1e-4 --sequence-length 64",
        "manta train --data t --out d --schedule cosine --warmup 100 --min-lr-ratio 0.1 --digits 2",
        "manta train --data t --out d --schedule wsd-sqrt --decay 50 --digits activations=2,logit-gradient=1",
        "manta train --data t --out d --optimizer muon",
        "manta train --data t --out d --optimizer adamw",
        "manta devices --preset base --vocab 50000 --optimizer muon",
        "manta train --data t --out d --tokenizer tokenizer.json --preset nano",
        "manta train --data t --out d --peers 2..8 --rounds 9 --steps-per-round 3 --preset nano --seed 1 --overwrite \
         --detach --json --patience 5s --deadline 1m",
        "manta stop abc",
        "manta status --json",
        "manta generate model --prompt x --tokens 5 --temperature 0 --top-k 3 --seed 4 --device native --json",
        "manta eval model --data book.txt",
        "manta eval model --data book.txt --digits activations=1",
        "manta eval model --data d --length 64 --windows 10 --device native --json",
        "manta tokenize train --data d --vocab 4096 --out f --overwrite --json",
        "manta tokenize encode f --text x",
        "manta tokenize decode d 1 2 3",
        "manta demo",
        "manta demo --peers 4 --data d --rounds 2 --steps-per-round 1 --preset tiny --device native --seed 9 --out o \
         --json --keep",
        "manta --log debug --log-json --data-dir d status",
        "manta status --log debug --log-json --data-dir d",
    ] {
        parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[test]
fn wrong_arguments_are_explained() {
    for (line, part) in [
        ("manta", "Usage: manta"),
        ("manta tran", "'train'"),
        ("manta train", "--out <DIR>"),
        ("manta train --out d --peers 8..2", "a range such as 2..8"),
        ("manta train --out d --peers 0", "1 to 16"),
        ("manta train --out d --rounds 0", "1.."),
        ("manta train --out d --preset giant", "no preset `giant`; there are: nano, tiny, small"),
        ("manta train --out d --schedule fast", "[possible values: wsd, wsd-sqrt, cosine, constant]"),
        ("manta train --out d --optimizer sgd", "[possible values: adamw, muon]"),
        ("manta devices --optimizer muon", "--preset"),
        ("manta train --out d --min-lr-ratio 2", "from 0 to 1"),
        ("manta train --out d --digits 3", "`3` digits: expected 1 or 2"),
        ("manta eval m --data d --digits bias=2", "no class of operands `bias`; there are: activations"),
        ("manta train --out d --from m --preset nano", "cannot be used with"),
        ("manta train --out d --from m --tokenizer f", "cannot be used with"),
        ("manta train --out d --learning-rate 0", "such as 1e-4"),
        ("manta demo --peers 17", "1..=16"),
        ("manta up --listen here", "invalid value 'here'"),
        ("manta up --http 8420", "invalid socket address"),
        ("manta up --duration-max soon", "6h"),
        ("manta generate d", "--prompt <TEXT>"),
        ("manta generate d --prompt x --temperature -1", "a number from 0 to 100"),
        ("manta demo --device x", "expected auto, native, gpu, software"),
        ("manta eval d", "--data <PATH>"),
        ("manta tokenize train --data d --vocab 9 --out f", "from 258 to 131072"),
        ("manta tokenize decode f", "<ID>"),
        ("manta stop", "<RUN|ORDER>"),
        ("manta train --out d --share all", "own, invited or open"),
        ("manta invite --expires soon", "6h"),
        ("manta invite --list --own", "cannot be used with"),
        ("manta revoke", "<SERIAL|PEER>"),
    ] {
        let error = parse(line).expect_err(line);
        assert!(error.contains(part), "{line}: expected `{part}` in\n{error}");
    }
}

#[test]
fn the_help_teaches() {
    for (command, parts) in [
        ("", &["manta demo  ", "manta up --join TICKET", "MANTA_DATA_DIR", "MANTA_LOG"][..]),
        ("up", &["Examples:", "--no-offer", "second peer on this machine", "[default: 127.0.0.1:8420]"]),
        ("train", &["Examples:", "manta stop", "- tiny: about 0.8M parameters", "[default: 1..16]"]),
        ("generate", &["Examples:", "--temperature 0"]),
        ("demo", &["Examples:", "tail -n 1", "[default: 4]"]),
        ("eval", &["Examples:", "--windows", "[default: auto]"]),
        ("tokenize", &["Examples:", "manta train --data books --tokenizer"]),
        ("stop", &["manta status"]),
        ("invite", &["Examples:", "manta up --join TICKET", "manta revoke", "[default: 90d]"]),
        ("revoke", &["manta invite --list"]),
    ] {
        let help = help(command);
        for part in parts {
            assert!(help.contains(part), "`{part}` in the help of `{command}`:\n{help}");
        }
        assert!(!help.contains("exit-with-stdin"), "hidden flags stay hidden");
    }
}

#[test]
fn train_and_demo_share_their_defaults() {
    let (Ok(Cli { command: Command::Train(train), .. }), Ok(Cli { command: Command::Demo(demo), .. })) =
        (parse("manta train --out d"), parse("manta demo"))
    else {
        panic!("both parse")
    };
    let (train, demo) = (format!("{train:?}"), format!("{demo:?}"));
    let recipe = |text: &str| text[text.find("Recipe").expect("a recipe")..].split(" }").next().map(str::to_owned);
    assert_eq!(recipe(&train), recipe(&demo));
}
