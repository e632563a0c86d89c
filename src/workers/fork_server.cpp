// SPDX-License-Identifier: BSD-3-Clause
#include "workers/fork_server.h"

#include <poll.h>
#include <sched.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstring>
#include <string>
#include <system_error>

#include "concurrency/deadline.h"
#include "concurrency/waited_time.h"
#include "native/posix/child_process.h"
#include "native/posix/file_descriptor.h"
#include "native/posix/inherited_files.h"
#include "native/posix/process_memory.h"
#include "workers/run_worker.h"

namespace lockstep::workers {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kCareSlice{500};
constexpr milliseconds kMemorySlice{50};
// Time for the current item. The owner waits longer than this before it kills the fork server
// itself.
constexpr milliseconds kGrace{400};
// So often a worker may end before it takes its first item.
constexpr int kAttempts = 3;

class ForkServer {
 public:
  ForkServer(const WorkerTable& table, const WorkerProgram& program, const Owner& owner)
      : table_(table),
        program_(program),
        owner_socket_(owner.socket),
        owner_(static_cast<int>(::syscall(SYS_pidfd_open, owner.pid, 0))),
        slice_(slice_for(program)),
        watches_(table.workers.size(), Watch{0, 0, 0, WaitedTime(2 * slice_)}) {
    // To a whole process group; whether to end is the owner's to say.
    owner_ignores_sigterm_ = ::signal(SIGTERM, SIG_IGN) == SIG_IGN;
    owner_is_alive_ = ::getppid() == owner.pid;  // else the number may already be somebody else's
    sigset_t mask;
    ::sigemptyset(&mask);
    ::sigaddset(&mask, SIGCHLD);
    ::sigprocmask(SIG_BLOCK, &mask, nullptr);
    child_ended_ = native::FileDescriptor(::signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK));
    for (std::size_t worker = 0; worker < table_.workers.size(); ++worker) start(worker);
  }

  void serve() {
    while (!poll_once(slice_)) {
      for (std::size_t worker = 0; worker < watches_.size(); ++worker) {
        look_for_progress(worker);
        look_at_memory(worker);
        start_if_missing(worker);
      }
    }
    is_stopping_ = true;
    table_.events.stop_workers();
    const auto grace = Deadline::after(owner_is_alive_ ? kGrace : milliseconds(0));
    while (running_ > 0 && !grace.has_passed()) {
      wait_for_child(std::chrono::duration_cast<milliseconds>(grace.remaining()));
    }
    kill_workers();
    const auto end = Deadline::after(kCareSlice);  // killed processes go at once
    while (running_ > 0 && !end.has_passed()) wait_for_child(milliseconds(50));
  }

 private:
  // What this process alone knows of a worker.
  struct Watch {
    pid_t pid = 0;  // 0: nobody runs under this number
    int failed_starts = 0;
    std::uint64_t heartbeats = 0;
    WaitedTime without_progress;
    bool was_ready = false;  // this one or one before it
  };

  // Often enough that a worker without progress is noticed within a quarter of the limit.
  static milliseconds slice_for(const WorkerProgram& program) {
    const auto slice = std::clamp(program.timeout / 4, milliseconds(5), kCareSlice);
    return program.memory_limit != 0 ? std::min(slice, kMemorySlice) : slice;
  }

  void start(std::size_t worker) {
    WorkerRecord& record = table_.workers[worker];
    Watch& watch = watches_[worker];
    record.kill_reason.store(KillReason::None, std::memory_order_relaxed);
    record.retire.store(0, std::memory_order_relaxed);
    record.current_item.store(CurrentItem::kNothing, std::memory_order_relaxed);
    record.message[0] = '\0';
    record.state.store(WorkerState::Starting, std::memory_order_release);
    watch.heartbeats = record.heartbeats.load(std::memory_order_relaxed);
    watch.without_progress.restart();
    try {
      const auto name = "lockstep-w" + std::to_string(worker);
      watch.pid = native::fork_child(name.c_str(), [this, worker] {
        ::close(owner_socket_);
        owner_.reset();
        child_ended_.reset();
        if (!owner_ignores_sigterm_) ::signal(SIGTERM, SIG_DFL);
        native::take_own_positions(program_.keep_descriptors);
        return run_worker(table_.workers[worker], program_, worker);
      });
      record.pid.store(watch.pid, std::memory_order_release);
      ++running_;
      // It may have been put on this core, where the next fork would keep it waiting.
      ::sched_yield();
    } catch (const std::system_error& error) {
      if (must_go_on(watch)) return;  // the next look tries again
      record.wait_status.store(error.code().value(), std::memory_order_relaxed);
      record.state.store(WorkerState::StartFailed, std::memory_order_release);
      table_.events.wake_owner();
    }
  }

  [[nodiscard]] bool must_go_on(const Watch& watch) const {
    return program_.restarts_without_end && watch.was_ready;
  }

  // Where no process could be forked.
  void start_if_missing(std::size_t worker) {
    const Watch& watch = watches_[worker];
    if (watch.pid == 0 && must_go_on(watch) && !table_.events.is_stopping()) start(worker);
  }

  // True when the owner asked for the end, or is gone.
  bool poll_once(milliseconds limit) {
    if (!owner_is_alive_) return true;
    std::array<pollfd, 3> entries{
        {{owner_socket_, POLLIN, 0}, {child_ended_.get(), POLLIN, 0}, {owner_.get(), POLLIN, 0}}};
    ::poll(entries.data(), entries.size(), static_cast<int>(limit.count()));
    if (entries[2].revents != 0) {
      owner_is_alive_ = false;
      return true;
    }
    if (entries[0].revents != 0) {
      char byte = 0;
      owner_is_alive_ = ::read(owner_socket_, &byte, 1) == 1;
      return true;
    }
    reap();  // whatever woke us: a lost signal costs no more than one slice
    return false;
  }

  void wait_for_child(milliseconds limit) {
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
      for (std::size_t worker = 0; worker < watches_.size(); ++worker) {
        if (watches_[worker].pid == pid) has_ended(worker, status);
      }
    }
  }

  void has_ended(std::size_t worker, int status) {
    WorkerRecord& record = table_.workers[worker];
    Watch& watch = watches_[worker];
    --running_;
    watch.pid = 0;
    // Or it ended because the owner, which has not written its stop byte yet, wants the end of all.
    if (is_stopping_ || table_.events.is_stopping()) return;
    record.wait_status.store(status, std::memory_order_relaxed);
    table_.events.forget_sleeper(record);
    const bool never_worked = record.state.load(std::memory_order_acquire) == WorkerState::Starting;
    watch.failed_starts = never_worked ? watch.failed_starts + 1 : 0;
    watch.was_ready = watch.was_ready || !never_worked;
    const bool is_replaced = watch.failed_starts < kAttempts || must_go_on(watch);
    // Before the repair: others may finish what it gives them before this process goes on, and
    // whoever sees their results sees the count.
    if (is_replaced) record.restarts.fetch_add(1, std::memory_order_relaxed);
    program_.repair(worker);
    if (is_replaced) {
      start(worker);
    } else {
      record.state.store(WorkerState::GivenUp, std::memory_order_release);
    }
    table_.events.wake_all_workers();  // for what it had claimed
    table_.events.wake_owner();
  }

  void look_for_progress(std::size_t worker) {
    WorkerRecord& record = table_.workers[worker];
    Watch& watch = watches_[worker];
    if (watch.pid == 0) return;
    const auto heartbeats = record.heartbeats.load(std::memory_order_acquire);
    const bool is_running = record.state.load(std::memory_order_acquire) == WorkerState::Running;
    const bool is_idle =
        is_running && record.current_item.load(std::memory_order_acquire) == CurrentItem::kNothing;
    if (heartbeats != watch.heartbeats || is_idle) {
      watch.heartbeats = heartbeats;
      watch.without_progress.restart();
    } else if (watch.without_progress.look() >
               (is_running ? program_.timeout : program_.start_timeout)) {
      end(worker, KillReason::NoProgress);
    }
  }

  void look_at_memory(std::size_t worker) {
    if (program_.memory_limit == 0 || watches_[worker].pid == 0) return;
    const auto bytes = native::anonymous_memory_of(watches_[worker].pid);
    if (bytes > program_.memory_limit + program_.memory_limit / 2) {
      end(worker, KillReason::TooMuchMemory);
    } else if (bytes > program_.memory_limit) {
      table_.workers[worker].retire.store(1, std::memory_order_release);
      table_.events.wake_all_workers();
    }
  }

  void end(std::size_t worker, KillReason why) {
    table_.workers[worker].kill_reason.store(why, std::memory_order_release);
    ::kill(watches_[worker].pid, SIGKILL);
    watches_[worker].without_progress.restart();
  }

  // Only this process reaps them, so a pid that has not ended is still theirs.
  void kill_workers() {
    for (const Watch& watch : watches_) {
      if (watch.pid != 0) ::kill(watch.pid, SIGKILL);
    }
  }

  WorkerTable table_;
  const WorkerProgram& program_;
  int owner_socket_;
  native::FileDescriptor owner_;  // a pidfd
  native::FileDescriptor child_ended_;
  milliseconds slice_;  // between two looks
  std::vector<Watch> watches_;
  std::size_t running_ = 0;
  bool owner_is_alive_ = true;
  bool owner_ignores_sigterm_ = false;
  bool is_stopping_ = false;
};

}  // namespace

int run_fork_server(const WorkerTable& table, const WorkerProgram& program, const Owner& owner) {
  std::vector<int> keep = program.keep_descriptors;
  keep.push_back(owner.socket);
  native::close_inherited_descriptors(keep);
  native::leave_inherited_locks(keep);
  // Once for all workers, whenever they start: the owner may move its own meanwhile.
  native::take_own_positions(keep);
  ForkServer(table, program, owner).serve();
  return 0;
}

}  // namespace lockstep::workers
