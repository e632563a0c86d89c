// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/read_pool.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <deque>
#include <exception>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "native/posix/close_on_fork.h"
#include "native/posix/file_descriptor.h"
#include "native/posix/futex.h"
#include "native/posix/page_cache.h"
#include "native/posix/posix_check.h"

namespace lockstep::native {
namespace {

// Nobody sleeps for longer at a time.
constexpr std::chrono::milliseconds kReaderSlice{500};
constexpr std::chrono::seconds kReaderPatience{2};
// What is read into the page cache at a time: a kernel takes advice on no more than its disk's
// read_ahead_kb or max_sectors_kb say, and 128 is what these are where nobody has set them.
constexpr std::size_t kPiece = std::size_t{128} << 10;
// What is read as fast as this was in the page cache, where the file system does not say so.
constexpr std::chrono::microseconds kNoDisk{100};

constexpr int kReadOnly = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;

}  // namespace

struct ReadPool::Job {
  ReadRequest request;
  std::uint64_t warm_bytes = 0;  // into the page cache instead of into the target
};

// Shared with the threads: one that is stuck outlives the pool.
struct ReadPool::Shared {
  Shared(FileSystem& machine, std::size_t depth, std::size_t most_threads)
      : files(machine), words(most_threads) {
    results.reserve(depth);  // a thread has nobody to tell that there is no memory
    idle.reserve(most_threads);
  }

  FileSystem& files;
  // A futex for each thread, so that a request wakes one of them.
  std::vector<std::atomic<std::uint32_t>> words;
  std::atomic<std::uint32_t> finished{0};  // futex of the owner
  std::atomic<bool> is_awaited{false};     // the owner may sleep there
  std::mutex mutex;                        // guards all below
  std::deque<Job> queue;
  std::vector<ReadResult> results;
  std::vector<std::size_t> idle;  // threads without a request, the last one first
  std::vector<std::thread> threads;
  std::size_t busy = 0;         // requests that a thread is at
  std::size_t running = 0;      // threads
  std::uint64_t forgotten = 0;  // how often the owner has cancelled
  bool is_over = false;

  void wake(std::size_t thread) {
    words[thread].fetch_add(1, std::memory_order_release);
    futex_wake_all(words[thread]);
  }
  void tell_owner() {
    finished.fetch_add(1);
    if (is_awaited.load()) futex_wake_all(finished);
  }
  // Until `is_so()`, asked under the lock, or the deadline: then false.
  template <class Condition>
  bool await(const Deadline& deadline, const Condition& is_so) {
    for (;;) {
      const auto seen = finished.load();
      {
        const std::lock_guard lock(mutex);
        if (is_so()) return true;
      }
      if (deadline.has_passed()) return false;
      is_awaited.store(true);
      futex_wait(finished, seen,
                 std::min<std::chrono::nanoseconds>(deadline.remaining(), kReaderSlice));
      is_awaited.store(false);
    }
  }
};

/// What one thread does.
class ReadPool::Reader {
 public:
  Reader(std::shared_ptr<Shared> shared, std::size_t number)
      : shared_(std::move(shared)), number_(number) {}

  void run() {
    while (auto job = next()) {
      const auto result = do_it(*job);
      const std::lock_guard lock(shared_->mutex);
      --shared_->busy;
      if (seen_ == shared_->forgotten) shared_->results.push_back(result);
      shared_->tell_owner();
    }
    const std::lock_guard lock(shared_->mutex);
    --shared_->running;
    shared_->tell_owner();
  }

 private:
  std::optional<Job> next() {
    auto& word = shared_->words[number_];
    for (;;) {
      const auto before = word.load(std::memory_order_acquire);
      {
        const std::lock_guard lock(shared_->mutex);
        if (shared_->is_over) return std::nullopt;
        auto& idle = shared_->idle;
        const auto mine = std::find(idle.begin(), idle.end(), number_);
        if (!shared_->queue.empty()) {
          if (mine != idle.end()) idle.erase(mine);
          Job job = std::move(shared_->queue.front());
          shared_->queue.pop_front();
          ++shared_->busy;
          seen_ = shared_->forgotten;
          return job;
        }
        if (mine == idle.end()) idle.push_back(number_);
      }
      futex_wait(word, before, kReaderSlice);
    }
  }

  ReadResult do_it(Job& job) {
    ReadResult result;
    result.tag = job.request.tag;
    try {
      attempt(job, result);
    } catch (const std::exception&) {  // of memory, there is none
      result.error = ENOMEM;
    }
    return result;
  }

  void attempt(Job& job, ReadResult& result) {
    FileDescriptor opened;
    int file = job.request.file;
    if (file < 0) {
      const int direct = job.request.is_direct ? O_DIRECT : 0;
      opened = FileDescriptor(open(job.request.path, kReadOnly | direct));
      file = opened.get();
    }
    std::optional<CloseOnFork>
        close_on_fork;  // a child would keep a file that is removed meanwhile
    if (opened.is_open()) close_on_fork.emplace(file);
    if (file < 0) {
      result.error = errno;
    } else if (job.warm_bytes != 0) {
      warm(file, job, result);
    } else {
      read(file, job.request, result);
    }
  }

  [[nodiscard]] int open(const std::string& path, int flags) {
    for (;;) {
      const int file = shared_->files.open(path, flags, 0);
      if (file >= 0 || errno != EINTR) return file;
    }
  }

  void read(int file, const ReadRequest& request, ReadResult& result) {
    while (result.bytes < request.target.size()) {
      const auto offset = request.offset + result.bytes;
      const auto got = shared_->files.read(file, request.target.subspan(result.bytes), offset);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0 && is_end_of_direct(request, result, errno)) return;
      if (got < 0) result.error = errno;
      if (got <= 0) return;
      result.bytes += static_cast<std::size_t>(got);
      // The kernel refuses to go on from there, and there is nothing to go on with.
      if (request.is_direct && (request.offset + result.bytes) % kDirectBlock != 0) return;
    }
  }

  void warm(int file, const Job& job, ReadResult& result) {
    struct stat info {};
    if (shared_->files.examine(file, info) != 0) {
      result.error = errno;
      return;
    }
    if (!S_ISREG(info.st_mode)) {
      result.error = EINVAL;
      return;
    }
    const auto size = static_cast<std::uint64_t>(info.st_size);
    const auto begin = std::min(job.request.offset, size);
    const auto end = begin + std::min(job.warm_bytes, size - begin);
    const auto start = std::chrono::steady_clock::now();
    const auto known = begin == end ? std::optional(true) : is_cached(file, begin, end);
    if (!known) {
      read_through(file, begin, end, result);
    } else if (!*known) {
      have_read(file, begin, end, result);
    }
    result.was_cached = known.value_or(std::chrono::steady_clock::now() - start < kNoDisk);
  }

  // The kernel reads all of it at once, and is waited for, so that what is in flight is bounded.
  void have_read(int file, std::uint64_t begin, std::uint64_t end, ReadResult& result) {
    const auto piece_at = [&](std::uint64_t at) {
      return std::min<std::uint64_t>(kPiece, end - at);
    };
    for (auto at = begin; at < end; at += kPiece) {
      shared_->files.start_reading(file, at, piece_at(at));
    }
    for (auto at = begin; at < end && result.error == 0; at += kPiece) {
      std::byte last{};
      ReadRequest request;
      request.offset = at + piece_at(at) - 1;
      request.target = std::span(&last, 1);
      ReadResult read_of_last;
      read(file, request, read_of_last);
      result.error = read_of_last.error;
      if (read_of_last.bytes == 0) return;  // the file has become shorter
      result.bytes += piece_at(at);
    }
  }

  // For a file system that does not tell what is cached, and perhaps takes no advice.
  void read_through(int file, std::uint64_t begin, std::uint64_t end, ReadResult& result) {
    if (scratch_.empty()) scratch_.resize(kPiece);
    ReadRequest part;
    while (begin < end && result.error == 0) {
      const auto bytes = static_cast<std::size_t>(std::min<std::uint64_t>(kPiece, end - begin));
      part.offset = begin;
      part.target = std::span(scratch_).first(bytes);
      ReadResult piece;
      read(file, part, piece);
      result.bytes += piece.bytes;
      result.error = piece.error;
      if (piece.bytes < bytes) return;
      begin += piece.bytes;
    }
  }

  static constexpr std::uint64_t kDirectBlock = 512;

  std::shared_ptr<Shared> shared_;
  std::size_t number_;
  std::uint64_t seen_ = 0;
  std::vector<std::byte> scratch_;
};

ReadPool::ReadPool(std::size_t depth, std::size_t threads, FileSystem& files)
    : depth_(std::max<std::size_t>(depth, 1)),
      most_threads_(std::clamp<std::size_t>(threads, 1, depth_)),
      shared_(std::make_shared<Shared>(files, depth_, most_threads_)) {}

ReadPool::~ReadPool() {
  // The threads of a process do not exist in its forks, and one may have held the lock.
  if (!owner_.is_current()) {
    leave_alone(std::move(shared_));
    return;
  }
  const auto deadline = Deadline::after(kReaderPatience);
  static_cast<void>(cancel(deadline));
  std::vector<std::thread> threads;
  {
    const std::lock_guard lock(shared_->mutex);
    shared_->is_over = true;
    threads = std::move(shared_->threads);
  }
  for (std::size_t thread = 0; thread < threads.size(); ++thread) shared_->wake(thread);
  const auto& running = shared_->running;
  if (!shared_->await(deadline, [&running] { return running == 0; })) {
    leave_alone(std::move(threads));
    return;
  }
  for (auto& thread : threads) thread.join();
}

bool ReadPool::submit(ReadRequest request) {
  Job job;
  job.request = std::move(request);
  return put(std::move(job));
}

bool ReadPool::warm(std::uint64_t tag, std::string path, std::uint64_t offset,
                    std::uint64_t bytes) {
  Job job;
  job.request.tag = tag;
  job.request.path = std::move(path);
  job.request.offset = offset;
  job.warm_bytes = std::max<std::uint64_t>(bytes, 1);
  return put(std::move(job));
}

bool ReadPool::put(Job job) {
  if (!owner_.is_current() || in_flight_ == depth_) return false;
  std::optional<std::size_t> woken;
  bool needs_thread = false;
  {
    const std::lock_guard lock(shared_->mutex);
    shared_->queue.push_back(std::move(job));
    if (shared_->idle.empty()) {
      needs_thread = shared_->threads.size() < most_threads_;
    } else {
      woken = shared_->idle.back();
      shared_->idle.pop_back();
    }
  }
  if (woken) shared_->wake(*woken);
  if (needs_thread) begin_thread();
  ++in_flight_;
  return true;
}

// One more than there are. Where the system has none to give, those there are must do.
void ReadPool::begin_thread() {
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  int error = 0;
  {
    const std::lock_guard lock(shared_->mutex);
    try {
      const auto number = shared_->threads.size();
      shared_->threads.emplace_back([shared = shared_, number] { Reader(shared, number).run(); });
      ::pthread_setname_np(shared_->threads.back().native_handle(), "lockstep-read");
      ++shared_->running;
    } catch (const std::exception& failure) {
      if (shared_->threads.empty()) {
        const auto* const system = dynamic_cast<const std::system_error*>(&failure);
        error = system != nullptr ? system->code().value() : ENOMEM;
        shared_->queue.clear();
      }
    }
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (error != 0) throw_errno("a thread that reads files", error);
}

std::optional<ReadResult> ReadPool::reap(const Deadline& deadline) {
  if (!owner_.is_current() || in_flight_ == 0) return std::nullopt;
  std::optional<ReadResult> result;
  static_cast<void>(shared_->await(deadline, [&] {
    auto& results = shared_->results;
    if (results.empty()) return false;
    result = results.front();
    results.erase(results.begin());
    return true;
  }));
  if (result) --in_flight_;
  return result;
}

bool ReadPool::cancel(const Deadline& deadline) {
  if (!owner_.is_current()) return true;
  in_flight_ = 0;
  {
    const std::lock_guard lock(shared_->mutex);
    shared_->queue.clear();
    shared_->results.clear();
    ++shared_->forgotten;
  }
  return shared_->await(deadline, [this] { return shared_->busy == 0; });
}

std::size_t ReadPool::threads() const {
  if (!owner_.is_current()) return 0;
  const std::lock_guard lock(shared_->mutex);
  return shared_->threads.size();
}

}  // namespace lockstep::native
