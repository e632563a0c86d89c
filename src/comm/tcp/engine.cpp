// SPDX-License-Identifier: BSD-3-Clause
#include "comm/tcp/engine.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <utility>

#include "native/posix/posix_check.h"

namespace lockstep {
namespace {

using std::chrono::milliseconds;

constexpr std::size_t kEventsACall = 64;
// How long the thread of the engine leaves all to the thread of the program, which waits in the
// group, until it looks whether that one still does.
constexpr milliseconds kVisit{5};
constexpr milliseconds kIdle{100};

}  // namespace

TcpEngine::TcpEngine()
    : epoll_(::epoll_create1(EPOLL_CLOEXEC)), wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!epoll_.is_open()) native::throw_errno("epoll_create1");
  if (!wake_.is_open()) native::throw_errno("eventfd");
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET;
  event.data.ptr = nullptr;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &event) != 0) {
    native::throw_errno("epoll_ctl");
  }
}

TcpEngine::~TcpEngine() {
  if (!owner_.is_current()) {
    native::leave_alone(std::move(thread_));
    return;
  }
  stop();
}

void TcpEngine::watch(TcpStream& stream) {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
  event.data.ptr = &stream;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, stream.socket(), &event) != 0) {
    native::throw_errno("epoll_ctl");
  }
}

void TcpEngine::start_thread() {
  thread_ = std::make_unique<std::thread>([this] { run(); });
}

void TcpEngine::stop() {
  std::unique_ptr<std::thread> thread;
  {
    const Lock held = lock();
    is_stopping_ = true;
    if (!thread_) return;
    wake_thread();
    thread = std::move(thread_);
  }
  thread->join();
}

TcpEngine::Lock TcpEngine::lock() {
  lock_wanted_.fetch_add(1, std::memory_order_relaxed);
  Lock held(mutex_);
  lock_wanted_.fetch_sub(1, std::memory_order_relaxed);
  return held;
}

TcpEngine::Lock TcpEngine::try_lock() {
  return {mutex_, std::try_to_lock};
}

void TcpEngine::yield_to_program(Lock& held) {
  if (lock_wanted_.load(std::memory_order_relaxed) == 0) return;
  held.unlock();
  while (lock_wanted_.load(std::memory_order_relaxed) != 0) std::this_thread::yield();
  held.lock();
}

void TcpEngine::hand_over(Lock&) {
  is_program_waiting_ = false;
  if (!thread_ || background_ == 0) return;
  wake_thread();
}

void TcpEngine::wake_thread() {
  // A thread that waits for events learns of new work only through one.
  if (does_thread_wait_) return interrupt_events();
  if (!std::exchange(is_woken_, true)) has_work_.release();
}

void TcpEngine::interrupt_events() {
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(wake_.get(), &one, sizeof(one));
}

void TcpEngine::process() {
  while (advance_one()) {
  }
}

bool TcpEngine::advance_one() {
  TcpStream* stream = ready_.take();
  if (stream == nullptr) return false;
  if (stream->advance()) ready_.add(*stream);
  return true;
}

void TcpEngine::process_beside_the_program(Lock& held) {
  while (advance_one()) {
    has_thread_moved_ = true;
    yield_to_program(held);
  }
}

void TcpEngine::note_events(Lock& held, std::chrono::nanoseconds limit) {
  std::array<epoll_event, kEventsACall> events;
  const auto rounded =
      std::chrono::ceil<milliseconds>(std::max(limit, std::chrono::nanoseconds(0)));
  held.unlock();
  const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()),
                                 static_cast<int>(std::min<long>(rounded.count(), kIdle.count())));
  held.lock();
  for (int index = 0; index < count; ++index) {
    const epoll_event& event = events[static_cast<std::size_t>(index)];
    if (event.data.ptr == nullptr) {
      std::uint64_t value = 0;
      [[maybe_unused]] const auto read = ::read(wake_.get(), &value, sizeof(value));
      continue;
    }
    const bool has_ended = (event.events & (EPOLLERR | EPOLLHUP | EPOLLRDHUP)) != 0;
    static_cast<TcpStream*>(event.data.ptr)
        ->note_events((event.events & EPOLLIN) != 0, (event.events & EPOLLOUT) != 0, has_ended);
  }
}

void TcpEngine::poll() {
  Lock held = try_lock();
  if (!held.owns_lock() || is_stopping_) return;
  if (thread_ && background_ > 0 && !is_program_waiting_) return;
  note_events(held, std::chrono::nanoseconds(0));
  process();
}

void TcpEngine::wait(std::chrono::nanoseconds limit) {
  Lock held = lock();
  if (is_stopping_) return;
  is_program_waiting_ = true;
  last_visit_ = std::chrono::steady_clock::now();
  process();
  // The caller may have looked before, and no event would tell it.
  if (std::exchange(has_thread_moved_, false)) return;
  does_program_wait_ = true;
  note_events(held, limit);
  does_program_wait_ = false;
  process();
  last_visit_ = std::chrono::steady_clock::now();
}

bool TcpEngine::has_thread_work() const {
  if (background_ == 0 || does_program_wait_) return false;
  return !is_program_waiting_ || std::chrono::steady_clock::now() - last_visit_ > kVisit;
}

void TcpEngine::run() {
  Lock held(mutex_);
  while (!is_stopping_) {
    if (!has_thread_work()) {
      const auto limit = is_program_waiting_ && background_ > 0 ? kVisit : kIdle;
      held.unlock();
      const bool is_woken = has_work_.try_acquire_for(limit);
      held.lock();
      if (is_woken) is_woken_ = false;
      continue;
    }
    is_program_waiting_ = false;  // it has not come for a while
    process_beside_the_program(held);
    does_thread_wait_ = true;
    note_events(held, kIdle);
    does_thread_wait_ = false;
    process_beside_the_program(held);
    // The thread of the program may wait for the very event that has come here.
    if (does_program_wait_) interrupt_events();
  }
}

}  // namespace lockstep
