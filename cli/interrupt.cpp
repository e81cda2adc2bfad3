// SPDX-License-Identifier: Apache-2.0
#include "cli/interrupt.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <initializer_list>

#include "runtime/check.hpp"

namespace spillway::cli::interrupt {
namespace {

volatile std::sig_atomic_t noted = 0;
volatile std::sig_atomic_t deferring = 0;
int wake_pipe[2] = {-1, -1};

extern "C" void on_signal(int number) {
  if (deferring == 0 || noted != 0) ::_exit(128 + number);
  noted = number;
  const int error = errno;
  static_cast<void>(!::write(wake_pipe[1], "!", 1));
  errno = error;
}

}  // namespace

void install() {
  SPW_CHECK(::pipe2(wake_pipe, O_CLOEXEC | O_NONBLOCK) == 0);
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (const int number : {SIGINT, SIGTERM}) {
    struct sigaction inherited {};
    ::sigaction(number, nullptr, &inherited);
    // `nohup`, and shells that run us in the background, ignore it for a reason.
    if (inherited.sa_handler != SIG_IGN) ::sigaction(number, &action, nullptr);
  }
}

void defer(bool deferred) { deferring = deferred ? 1 : 0; }

int signal() { return noted; }

void clear() {
  noted = 0;
  char bytes[16];
  while (::read(wake_pipe[0], bytes, sizeof bytes) > 0) {
  }
}

int wake_fd() { return wake_pipe[0]; }

}  // namespace spillway::cli::interrupt
