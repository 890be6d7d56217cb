use uuid::Uuid;

use super::*;
use crate::types::VolumeState;

/// One volume of a server after its first failure.
const ONE: Situation = Situation {
    volumes: 1,
    tries: 0,
    asked_again: false,
    direct: false,
    stands_in: false,
    mirrored: false,
};
const AGAIN: Situation = Situation {
    asked_again: true,
    ..ONE
};
const STANDS_IN: Situation = Situation {
    stands_in: true,
    ..ONE
};
const DIRECT: Situation = Situation {
    direct: true,
    ..STANDS_IN
};
const MIRRORED: Situation = Situation {
    mirrored: true,
    ..ONE
};
const SEVERAL: Situation = Situation { volumes: 3, ..ONE };

fn failed(kind: Kind) -> End {
    End::Failed {
        kind,
        answered: true,
    }
}

fn wrong(missing: bool) -> End {
    End::Wrong {
        missing,
        told: false,
        from_start: missing,
    }
}

#[test]
fn a_wrong_answer_is_asked_for_once_more_and_then_had_from_elsewhere() {
    let told = End::Wrong {
        missing: false,
        told: true,
        from_start: false,
    };
    let stands_in = Situation {
        asked_again: true,
        ..STANDS_IN
    };
    let mirrored = Situation {
        asked_again: true,
        ..MIRRORED
    };
    for (end, at, then) in [
        (wrong(false), ONE, Move::Again { from_start: false }),
        (wrong(true), ONE, Move::Again { from_start: true }),
        (told, AGAIN, Move::Again { from_start: false }),
        (wrong(false), AGAIN, Move::GiveUp),
        (wrong(true), AGAIN, Move::GiveUp),
        (wrong(true), stands_in, Move::HomeLater),
        (wrong(false), stands_in, Move::GiveUp),
        (wrong(false), MIRRORED, Move::Again { from_start: false }),
        (wrong(false), mirrored, Move::Mirrors),
        (wrong(true), mirrored, Move::Mirrors),
        (
            failed(Kind::Corrupt),
            ONE,
            Move::Again { from_start: false },
        ),
        (failed(Kind::Corrupt), mirrored, Move::Mirrors),
        (failed(Kind::Corrupt), AGAIN, Move::GiveUp),
    ] {
        assert_eq!(next(end, at), then, "{end:?} {at:?}");
    }
}

#[test]
fn a_server_that_answers_for_one_of_its_disks_is_asked_for_each_by_itself() {
    let tried = Situation {
        tries: 1,
        ..SEVERAL
    };
    let broke = End::Failed {
        kind: Kind::Unavailable,
        answered: false,
    };
    for (end, at, then) in [
        (failed(Kind::Unavailable), SEVERAL, Move::Wait),
        (failed(Kind::Unavailable), tried, Move::Split),
        (broke, tried, Move::Wait),
        (failed(Kind::Busy), tried, Move::Wait),
        (
            failed(Kind::Unavailable),
            Situation { tries: 9, ..ONE },
            Move::Wait,
        ),
    ] {
        assert_eq!(next(end, at), then, "{end:?} {at:?}");
    }
}

#[test]
fn what_is_lost_at_one_place_is_had_from_another_before_it_is_given_up() {
    let both = Situation {
        mirrored: true,
        ..STANDS_IN
    };
    let mirrored = Situation {
        mirrored: true,
        ..SEVERAL
    };
    for (at, then) in [
        (ONE, Move::Describe),
        (AGAIN, Move::Describe),
        (SEVERAL, Move::Describe),
        (STANDS_IN, Move::Home),
        (both, Move::Home),
        (MIRRORED, Move::Mirrors),
        (mirrored, Move::Split),
        (DIRECT, Move::HomeLater),
    ] {
        assert_eq!(next(failed(Kind::Lost), at), then, "{at:?}");
    }
    for kind in [Kind::Busy, Kind::Unavailable] {
        assert_eq!(next(failed(kind), DIRECT), Move::HomeLater, "{kind:?}");
    }
    for (gone, at, then) in [
        (0, ONE, Missing::Again),
        (0, AGAIN, Missing::GiveUp),
        (0, SEVERAL, Missing::Split),
        (1, SEVERAL, Missing::Search),
        (1, AGAIN, Missing::Search),
    ] {
        assert_eq!(missing(gone, at), then, "{gone} of {at:?}");
    }
}

#[test]
fn a_refusal_is_final_wherever_it_comes_from() {
    for kind in [Kind::Invalid, Kind::Fenced, Kind::Internal, Kind::Denied] {
        for at in [ONE, AGAIN, SEVERAL, STANDS_IN, DIRECT, MIRRORED] {
            assert_eq!(next(failed(kind), at), Move::GiveUp, "{kind:?} {at:?}");
        }
    }
}

#[test]
fn a_server_is_waited_for_as_long_as_there_is_time_and_somebody_may_hope() {
    let first = Waited {
        tries: 1,
        busy: false,
        silent: false,
        in_time: true,
        in_vain: false,
        mirrored: false,
    };
    let pause = Wait {
        search: false,
        pause: true,
        mirrors: false,
    };
    let over = Wait {
        search: true,
        pause: false,
        mirrors: false,
    };
    let fourth = Waited { tries: 4, ..first };
    let in_vain = Waited {
        in_vain: true,
        ..first
    };
    for (at, then) in [
        (first, pause),
        (Waited { tries: 3, ..first }, pause),
        (
            fourth,
            Wait {
                search: true,
                mirrors: true,
                ..pause
            },
        ),
        // The other copies have had their turn by then.
        (
            Waited {
                mirrored: true,
                ..fourth
            },
            Wait {
                mirrors: true,
                ..pause
            },
        ),
        (
            Waited {
                tries: 8,
                mirrored: true,
                ..first
            },
            Wait {
                search: true,
                mirrors: true,
                ..pause
            },
        ),
        (
            Waited {
                in_time: false,
                ..fourth
            },
            over,
        ),
        // One more free try.
        (in_vain, pause),
        (
            Waited {
                silent: true,
                ..in_vain
            },
            over,
        ),
        (
            Waited {
                tries: 2,
                ..in_vain
            },
            over,
        ),
        // A server that answers is there.
        (
            Waited {
                tries: 3,
                busy: true,
                ..in_vain
            },
            pause,
        ),
    ] {
        assert_eq!(wait(at), then, "{at:?}");
    }
}

fn server(address: &str, remote: bool, volumes: &[u128]) -> Description {
    let volumes = volumes.iter().map(|id| VolumeState {
        id: VolumeId(Uuid::from_u128(*id)),
        bytes_used: 0,
        bytes_free: 0,
        state: "ok".into(),
    });
    Description {
        address: address.into(),
        version: String::new(),
        volumes: volumes.collect(),
        draining: false,
        memory_used: 0,
        memory_limit: 0,
        remote,
        instance: String::new(),
        node: String::new(),
        zone: String::new(),
    }
}

#[test]
fn a_volume_is_had_from_who_has_it_then_from_who_has_the_store_then_from_the_store() {
    let volume = |id| VolumeId(Uuid::from_u128(id));
    let servers = [
        server("a:1", false, &[1]),
        server("b:1", true, &[2]),
        server("c:1", true, &[]),
    ];
    let asked = [volume(1), volume(2), volume(3)];
    let owners = [
        (volume(1), Place::Server("a:1".into())),
        (volume(2), Place::Server("b:1".into())),
    ];
    let mut others = Others {
        servers: &servers,
        scope: Scope::Owners,
        store: true,
    };
    let never = |_| unreachable!("nobody stands in");
    assert_eq!(others.places(&asked, never), owners);
    others.scope = Scope::StandIns;
    let last = |count| count - 1;
    let stand_in = (volume(3), Place::StandIn("c:1".into()));
    let [one, two] = owners.clone();
    assert_eq!(others.places(&asked, last), [one, two, stand_in]);
    others.servers = &servers[..1];
    let [one, _] = owners;
    let store = |id| (volume(id), Place::Store);
    assert_eq!(
        others.places(&asked, never),
        [one.clone(), store(2), store(3)]
    );
    others.store = false;
    assert_eq!(others.places(&asked, never), [one]);
}
