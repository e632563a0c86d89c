// SPDX-License-Identifier: BSD-3-Clause
#include "workers/nursery.h"

#include <poll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

#include <array>
#include <chrono>
#include <csignal>
#include <cstring>
#include <exception>
#include <string>
#include <system_error>

#include "concurrency/deadline.h"
#include "native/posix/child_process.h"
#include "native/posix/file_descriptor.h"
#include "native/posix/futex.h"

namespace lockstep::workers {
namespace {

constexpr std::chrono::milliseconds kSlice{500};
// Time for the sample in hand. The owner waits longer than this before it kills the nursery itself.
constexpr std::chrono::milliseconds kGrace{400};

void tell_owner(const WorkerBoard& board) {
  board.header->done.fetch_add(1, std::memory_order_release);
  native::futex_wake_all(board.header->done);
}

int run_worker(const WorkerBoard& board, const WorkerProgram& program, std::size_t worker) {
  WorkerRecord& record = board.workers[worker];
  try {
    program.run(worker);
    return 0;
  } catch (const std::exception& error) {
    std::strncpy(record.message, error.what(), WorkerRecord::kMessageBytes - 1);
  } catch (...) {
    std::strncpy(record.message, "an exception of unknown type", WorkerRecord::kMessageBytes - 1);
  }
  return 1;
}

class Nursery {
 public:
  Nursery(const WorkerBoard& board, const WorkerProgram& program, int owner_socket)
      : board_(board), program_(program), owner_socket_(owner_socket) {
    sigset_t mask;
    ::sigemptyset(&mask);
    ::sigaddset(&mask, SIGCHLD);
    ::sigprocmask(SIG_BLOCK, &mask, nullptr);
    child_ended_ = native::FileDescriptor(::signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK));
    for (std::size_t worker = 0; worker < board_.workers.size(); ++worker) start(worker);
  }

  void serve() {
    while (!poll_once(kSlice)) {
    }
    wake_workers();
    const auto grace = Deadline::after(owner_is_alive_ ? kGrace : std::chrono::milliseconds(0));
    while (running_ > 0 && !grace.has_passed()) {
      wait_for_child(std::chrono::duration_cast<std::chrono::milliseconds>(grace.remaining()));
    }
    kill_workers();
    const auto end = Deadline::after(kSlice);  // killed processes go at once
    while (running_ > 0 && !end.has_passed()) wait_for_child(std::chrono::milliseconds(50));
  }

 private:
  void start(std::size_t worker) {
    WorkerRecord& record = board_.workers[worker];
    try {
      const auto name = "lockstep-w" + std::to_string(worker);
      const pid_t pid = native::fork_child(name.c_str(), [this, worker] {
        ::close(owner_socket_);
        child_ended_.reset();
        return run_worker(board_, program_, worker);
      });
      record.pid.store(pid, std::memory_order_release);
      ++running_;
    } catch (const std::system_error& error) {
      record.wait_status.store(error.code().value(), std::memory_order_relaxed);
      record.state.store(WorkerState::StartFailed, std::memory_order_release);
      tell_owner(board_);
    }
  }

  // True when the owner asked for the end, or is gone.
  bool poll_once(std::chrono::milliseconds limit) {
    std::array<pollfd, 2> entries{{{owner_socket_, POLLIN, 0}, {child_ended_.get(), POLLIN, 0}}};
    ::poll(entries.data(), entries.size(), static_cast<int>(limit.count()));
    reap();  // whatever woke us: a lost signal costs no more than one slice
    if (entries[0].revents == 0) return false;
    char order = 0;
    owner_is_alive_ = ::read(owner_socket_, &order, 1) == 1;
    return true;
  }

  void wait_for_child(std::chrono::milliseconds limit) {
    pollfd entry{child_ended_.get(), POLLIN, 0};
    ::poll(&entry, 1, static_cast<int>(limit.count()) + 1);
    reap();
  }

  void reap() {
    signalfd_siginfo info{};
    while (::read(child_ended_.get(), &info, sizeof(info)) > 0) {
    }
    int status = 0;
    for (pid_t pid = 0; (pid = ::waitpid(-1, &status, WNOHANG)) > 0;) {
      for (WorkerRecord& record : board_.workers) {
        if (record.pid.load(std::memory_order_relaxed) != pid) continue;
        record.wait_status.store(status, std::memory_order_relaxed);
        record.state.store(WorkerState::Ended, std::memory_order_release);
        --running_;
      }
      tell_owner(board_);
    }
  }

  void wake_workers() {
    board_.header->stop.store(1, std::memory_order_release);
    board_.header->work.fetch_add(1, std::memory_order_release);
    native::futex_wake_all(board_.header->work);
  }

  void kill_workers() {
    for (const WorkerRecord& record : board_.workers) {
      // Only this process reaps them, so a pid that has not ended is still theirs.
      const auto state = record.state.load(std::memory_order_acquire);
      if (state == WorkerState::Starting || state == WorkerState::Running) {
        ::kill(record.pid.load(std::memory_order_relaxed), SIGKILL);
      }
    }
  }

  WorkerBoard board_;
  const WorkerProgram& program_;
  int owner_socket_;
  native::FileDescriptor child_ended_;
  std::size_t running_ = 0;
  bool owner_is_alive_ = true;
};

}  // namespace

int run_nursery(const WorkerBoard& board, const WorkerProgram& program, int owner_socket) {
  std::vector<int> keep = program.keep_descriptors;
  keep.push_back(owner_socket);
  native::close_inherited_descriptors(keep);
  Nursery(board, program, owner_socket).serve();
  return 0;
}

}  // namespace lockstep::workers
