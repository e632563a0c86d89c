// SPDX-License-Identifier: BSD-3-Clause
#include "workers/forked_workers.h"

#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <utility>

#include "native/posix/posix_check.h"
#include "workers/fork_server.h"

namespace lockstep::workers {
namespace {

// Longer than the time that the fork server gives its workers, and within the second that a
// destructor may take.
constexpr std::chrono::milliseconds kForkServerEnd{900};

}  // namespace

ForkedWorkers::SocketPair::SocketPair() {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) {
    native::throw_errno("socketpair for data workers failed");
  }
  owner = native::FileDescriptor(ends[0]);
  fork_server = native::FileDescriptor(ends[1]);
}

ForkedWorkers::ForkedWorkers(const WorkerTable& table, const WorkerProgram& program)
    : table_(table), fork_server_("lockstep-fork", [this, &program, owner = ::getpid()] {
        return run_fork_server(table_, program, {owner, sockets_.fork_server.get()});
      }) {
  sockets_.fork_server.reset();
}

ForkedWorkers::~ForkedWorkers() {
  stop();
}

bool ForkedWorkers::stop() noexcept {
  if (!owner_.is_current() || std::exchange(has_stopped_, true)) return true;
  table_.events.stop_workers();
  // A byte, not only the end of file: a process that the program forked may hold a copy of this
  // end.
  const char stop = 'q';
  static_cast<void>(::send(sockets_.owner.get(), &stop, 1, MSG_NOSIGNAL));
  if (!fork_server_.wait(kForkServerEnd)) fork_server_.kill();
  return true;
}

}  // namespace lockstep::workers
