// SPDX-License-Identifier: Apache-2.0
#pragma once

// Ctrl-C and SIGTERM. At first either ends the process at once (nothing is lost yet); between defer(true) and
// defer(false) the first one is only noted, and the second ends the process.
// Owner: the main thread. There is one set of signal handlers in a process, hence functions and no object.

namespace spillway::cli::interrupt {

/// Installs the handlers.
void install();
/// Whether a signal is noted (true) or ends the process at once (false).
void defer(bool deferred);
/// The signal that was noted, or 0.
[[nodiscard]] int signal();
/// Forgets it: the next one is a first one again.
void clear();
/// Readable once a signal was noted, until clear(): for poll().
[[nodiscard]] int wake_fd();

}  // namespace spillway::cli::interrupt
