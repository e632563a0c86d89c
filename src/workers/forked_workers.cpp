// SPDX-License-Identifier: BSD-3-Clause
#include "workers/forked_workers.h"

#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <utility>

#include "native/posix/futex.h"
#include "native/posix/posix_check.h"
#include "workers/nursery.h"

namespace lockstep::workers {
namespace {

// Longer than the time that the nursery gives its workers, and within the second that a destructor
// may take.
constexpr std::chrono::milliseconds kNurseryEnd{900};

}  // namespace

ForkedWorkers::SocketPair::SocketPair() {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) {
    native::throw_errno("socketpair for data workers failed");
  }
  owner = native::FileDescriptor(ends[0]);
  nursery = native::FileDescriptor(ends[1]);
}

ForkedWorkers::ForkedWorkers(const WorkerBoard& board, const WorkerProgram& program)
    : board_(board), nursery_("lockstep-nursry", [this, &program, owner = ::getpid()] {
        return run_nursery(board_, program, {owner, sockets_.nursery.get()});
      }) {
  sockets_.nursery.reset();
}

ForkedWorkers::~ForkedWorkers() {
  stop();
}

bool ForkedWorkers::stop() noexcept {
  if (!owner_.is_current() || std::exchange(has_stopped_, true)) return true;
  board_.header->stop.store(1, std::memory_order_release);
  board_.header->work.fetch_add(1, std::memory_order_release);
  native::futex_wake_all(board_.header->work);
  // A byte, not only the end of file: a process that the program forked may hold a copy of this
  // end.
  const char order = 'q';
  static_cast<void>(::send(sockets_.owner.get(), &order, 1, MSG_NOSIGNAL));
  if (!nursery_.wait(kNurseryEnd)) nursery_.kill();
  return true;
}

}  // namespace lockstep::workers
