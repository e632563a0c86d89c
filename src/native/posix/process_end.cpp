// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/process_end.h"

#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <exception>
#include <mutex>

#include "native/posix/futex.h"
#include "native/posix/posix_check.h"

namespace lockstep::native {
namespace {

using Clock = std::chrono::steady_clock;

struct Place {
  std::atomic<bool> is_taken{false};
  std::atomic<std::uint32_t> word{0};
  std::atomic<std::int64_t> exit_limit{0};  // milliseconds
  std::atomic<pid_t> thread{0};             // that sleeps on the word
};

// All that a handler may touch: it is never destroyed.
std::array<Place, ProcessEnd::kMost> places;
std::atomic<pid_t> living_in{0};
std::atomic<std::int64_t> signal_at{0};  // milliseconds; 0: there was none
std::atomic<bool> is_told{false};        // all places have the bit of the signal
std::atomic<pid_t> terminating{0};       // the first thread in the handler of std::terminate
std::atomic<bool> has_timer{false};
timer_t timer{};  // set before has_timer
std::atomic<bool> is_at_exit{false};
static_assert(std::atomic<std::uint32_t>::is_always_lock_free);

// What is done when the first is made and the last one goes.
struct Handlers {
  std::mutex mutex;
  std::size_t living = 0;                   // guarded by mutex
  std::terminate_handler before = nullptr;  // guarded by mutex
  bool is_registered_at_exit = false;       // guarded by mutex
};

Handlers& handlers();

// A child may make one of its own, so no other thread has the mutex during a fork.
Handlers* make_handlers() {
  ::pthread_atfork([] { handlers().mutex.lock(); }, [] { handlers().mutex.unlock(); },
                   [] { handlers().mutex.unlock(); });
  return new Handlers;
}

Handlers& handlers() {
  static auto* instance = make_handlers();  // never destroyed: writers may outlive other statics
  return *instance;
}

// The handler of std::terminate takes no lock.
std::atomic<std::terminate_handler> terminate_before{nullptr};

/// All of them have the bit before the first one wakes: it may end the process when it is ready.
void tell(std::uint32_t bit) noexcept {
  for (auto& place : places) {
    if (place.is_taken.load()) place.word.fetch_or(bit);
  }
  for (auto& place : places) {
    if (place.is_taken.load()) futex_wake_all(place.word);
  }
}

void end_by_signal() noexcept {
  struct sigaction plain {};
  plain.sa_handler = SIG_DFL;
  ::sigaction(SIGTERM, &plain, nullptr);
  ::kill(::getpid(), SIGTERM);
  // The first process of a container does not end by its own signals.
  if (::getpid() == 1) ::_exit(128 + SIGTERM);
}

/// After SIGTERM, once all have been told and are ready.
void end_if_all_are_ready() noexcept {
  if (signal_at.load() == 0 || !is_told.load()) return;
  for (const auto& place : places) {
    if (place.is_taken.load() && (place.word.load() & ProcessEnd::kSoon) != 0) return;
  }
  if (is_told.exchange(false)) end_by_signal();
}

std::int64_t milliseconds_now() noexcept {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::int64_t>(now.tv_sec) * 1000 + now.tv_nsec / 1'000'000;
}

// A thread that hangs in the system, on a disk that does not answer, must not keep the process
// alive: the signal comes a second time then.
void send_signal_again(std::chrono::milliseconds after) noexcept {
  if (!has_timer.load()) return;
  itimerspec once{};
  once.it_value.tv_sec = static_cast<time_t>(after.count() / 1000);
  once.it_value.tv_nsec = static_cast<long>(after.count() % 1000 * 1'000'000);
  ::timer_settime(timer, 0, &once, nullptr);
}

void on_signal(int /*signal*/) {
  const int error = errno;
  const auto now = milliseconds_now();
  std::int64_t before = 0;
  if (::getpid() != living_in.load(std::memory_order_relaxed)) {
    end_by_signal();  // a fork; the signal is blocked until this returns
  } else if (signal_at.compare_exchange_strong(before, now)) {
    tell(ProcessEnd::kSoon);
    send_signal_again(2 * ProcessEnd::kSoonLimit);
    is_told.store(true);
    // Perhaps they were faster; or there is none, and a handler that was made later has brought
    // this one back.
    end_if_all_are_ready();
  } else if (now - before > ProcessEnd::kSoonLimit.count()) {
    end_by_signal();
  }
  errno = error;
}

bool handles_signal() noexcept {
  struct sigaction now {};
  return ::sigaction(SIGTERM, nullptr, &now) == 0 && (now.sa_flags & SA_SIGINFO) == 0 &&
         now.sa_handler == on_signal;
}

void handle_signal() noexcept {
  struct sigaction now {};
  if (::sigaction(SIGTERM, nullptr, &now) != 0) return;
  if ((now.sa_flags & SA_SIGINFO) != 0 || now.sa_handler != SIG_DFL) return;
  struct sigaction own {};
  own.sa_handler = on_signal;
  own.sa_flags = SA_RESTART;
  ::sigaction(SIGTERM, &own, nullptr);
}

void wait_until_ready(std::uint32_t bit, std::chrono::milliseconds least) noexcept {
  const auto start = Clock::now();
  const pid_t self = ::gettid();
  for (auto& place : places) {
    if (place.thread.load() == self) continue;
    const auto limit =
        bit == ProcessEnd::kAtExit ? std::chrono::milliseconds(place.exit_limit.load()) : least;
    while (place.is_taken.load()) {
      const auto word = place.word.load();
      const auto left = start + limit - Clock::now();
      if ((word & bit) == 0 || left <= Clock::duration::zero()) break;
      futex_wait(place.word, word, left);
    }
  }
}

[[noreturn]] void on_terminate() {
  pid_t first = 0;
  const bool is_first = terminating.compare_exchange_strong(first, ::gettid());
  // The handler before has called a later one, which has called this one.
  if (!is_first && first == ::gettid()) std::abort();
  if (::getpid() == living_in.load()) {
    if (is_first) tell(ProcessEnd::kSoon);
    // A thread that is late is given time to notice that it is.
    wait_until_ready(ProcessEnd::kSoon, 2 * ProcessEnd::kSoonLimit);
  }
  const auto before = terminate_before.load();
  if (is_first && before != nullptr) before();
  std::abort();
}

void on_exit() {
  // It may be registered several times; the first call counts.
  if (is_at_exit.exchange(true)) return;
  if (::getpid() != living_in.load()) return;
  tell(ProcessEnd::kAtExit);
  wait_until_ready(ProcessEnd::kAtExit, {});
}

}  // namespace

ProcessEnd::ProcessEnd(std::chrono::milliseconds exit_limit) : place_(kMost) {
  auto& own = handlers();
  const std::lock_guard lock(own.mutex);
  if (living_in.exchange(::getpid()) != ::getpid()) {
    // The first one, or the first of a fork, which has no threads of the others.
    for (auto& place : places) {
      place.is_taken.store(false);
      place.word.store(0);
    }
    own.living = 0;
    signal_at.store(0);
    is_told.store(false);
    sigevent event{};
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGTERM;
    has_timer.store(::timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
  }
  for (std::size_t i = 0; i < kMost && place_ == kMost; ++i) {
    if (places[i].is_taken.load()) continue;
    places[i].word.store(0);
    places[i].thread.store(0);
    places[i].exit_limit.store(exit_limit.count());
    places[i].is_taken.store(true);
    place_ = i;
  }
  if (place_ == kMost) {
    throw_errno("a process has at most " + std::to_string(kMost) + " background writers", EAGAIN);
  }
  if (++own.living > 1) return;
  handle_signal();
  if (std::get_terminate() != on_terminate) {
    own.before = std::set_terminate(on_terminate);
    terminate_before.store(own.before);
  }
  if (!own.is_registered_at_exit) own.is_registered_at_exit = std::atexit(on_exit) == 0;
}

ProcessEnd::~ProcessEnd() {
  ready();
  auto& own = handlers();
  const std::lock_guard lock(own.mutex);
  if (living_in.load() != ::getpid()) return;
  places[place_].is_taken.store(false);
  if (--own.living > 0) return;
  if (handles_signal()) {
    struct sigaction plain {};
    plain.sa_handler = SIG_DFL;
    ::sigaction(SIGTERM, &plain, nullptr);
  }
  if (std::get_terminate() == on_terminate) std::set_terminate(own.before);
}

std::atomic<std::uint32_t>& ProcessEnd::word() const noexcept {
  return places[place_].word;
}

void ProcessEnd::ready() noexcept {
  places[place_].word.fetch_and(~(kSoon | kAtExit));
  futex_wake_all(places[place_].word);
  end_if_all_are_ready();
}

void ProcessEnd::claim_thread() noexcept {
  places[place_].thread.store(::gettid());
}

void ProcessEnd::come_first_at_exit() noexcept {
  static_cast<void>(std::atexit(on_exit));
}

bool ProcessEnd::is_exiting() noexcept {
  return is_at_exit.load(std::memory_order_relaxed);
}

void ProcessEnd::handle_signal_again() noexcept {
  auto& own = handlers();
  const std::lock_guard lock(own.mutex);
  if (own.living > 0 && living_in.load() == ::getpid()) handle_signal();
}

}  // namespace lockstep::native
