//! The scripts, and how a call of one is built.
//!
//! Every script declares its flags: without any Redis refuses it before it runs when
//! memory is full (`OOM`) or the server is a replica, so that "refused" is "nothing was
//! written"; those that free memory or write a few bytes are let through.

use std::sync::LazyLock;

use redis::{Cmd, ToRedisArgs};

/// A script and its digest.
pub(super) struct Script {
    source: &'static str,
    sha: LazyLock<String>,
}

macro_rules! scripts {
    ($($name:ident = $flags:literal $($file:literal)+;)+) => {
        $(pub(super) static $name: Script = Script {
            source: concat!("#!lua", $flags, "\n", $(include_str!($file)),+),
            sha: LazyLock::new(|| sha(&$name)),
        };)+
        /// All of them, to be loaded when a connection begins.
        pub(super) static ALL: &[&Script] = &[$(&$name),+];
    };
}

scripts! {
    INSPECT = " flags=no-writes" "guard.lua" "inspect.lua";
    BEGIN = " flags=allow-oom" "begin.lua";
    FENCE = " flags=allow-oom" "guard.lua" "fence.lua";
    APPEND = "" "guard.lua" "dead.lua" "append.lua";
    MARK = " flags=allow-oom" "guard.lua" "dead.lua" "append.lua";
    LEASE = " flags=allow-oom" "guard.lua" "lease.lua";
    LOAD = "" "guard.lua" "dead.lua" "load.lua";
    LOADABLE = " flags=no-writes" "guard.lua" "loadable.lua";
    RENEW = " flags=allow-oom" "guard.lua" "dead.lua" "load.lua";
    FINISH = " flags=allow-oom" "guard.lua" "finish.lua";
    RELEASE = " flags=allow-oom" "release.lua";
    TRIM = " flags=allow-oom" "acked.lua" "trim.lua";
    CONSUMERS = " flags=no-writes" "guard.lua" "acked.lua" "consumers.lua";
    ADD_CONSUMER = " flags=allow-oom" "guard.lua" "consumer_add.lua";
    REMOVE_CONSUMER = " flags=allow-oom" "consumer_remove.lua";
    PAGE = " flags=no-writes" "page.lua";
    ACK = " flags=allow-oom" "guard.lua" "acked.lua" "ack.lua";
    STATE = " flags=allow-oom" "state.lua";
}

fn sha(script: &Script) -> String {
    redis::Script::new(script.source).get_hash().to_owned()
}

impl Script {
    /// `SCRIPT LOAD`.
    pub(super) fn load(&self) -> Cmd {
        let mut command = redis::cmd("SCRIPT");
        command.arg("LOAD").arg(self.source);
        command
    }

    /// A call; arguments follow with `arg`.
    pub(super) fn on<K: ToRedisArgs>(&self, keys: &[K]) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(self.sha.as_str()).arg(keys.len());
        for key in keys {
            command.arg(key);
        }
        command
    }
}
