// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/core/Device.h>
#include <c10/core/Stream.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "native/cuda/host_pinning.h"

namespace lockstep::testing {

/// A device of LibTorch's ("fake") that does what it is told only when a test says so: the
/// library's own code runs, with LibTorch's streams, events and guards, on tensors of this device.
///
/// - A copy from pinned memory reads it when it runs, and no sooner. Only memory of LibTorch's own
///   allocator is kept for it until then.
/// - Device memory that is freed serves the next tensor of its size on the stream on which it was
///   allocated, at once, but for streams that were recorded: as CUDA's caching allocator does.
/// - Streams run in the order that the test chooses; a stream stops at an event that has not
///   happened.
///
/// LibTorch registers a device for the life of the process, so there is one. Thread-safety: any
/// thread.
class FakeGpu {
 public:
  static constexpr int kDevices = 2;

  [[nodiscard]] static FakeGpu& get();
  [[nodiscard]] static c10::Device device(int index = 0) {
    return {c10::kPrivateUse1, static_cast<c10::DeviceIndex>(index)};
  }
  /// Forgets everything; device 0 is in use. Tensors of the device must be gone.
  void reset();

  /// Enqueued on the current stream of device 0.
  void enqueue(std::function<void()> work);
  [[nodiscard]] static c10::Stream current();
  /// Does what comes next on that stream; false when there is nothing, or it waits for an event.
  bool run_one(const c10::Stream& stream);
  /// As far as it goes without the others.
  void run(const c10::Stream& stream);
  /// All streams, until nothing is left.
  void run_all();
  /// All streams in an order drawn from `seed`, at most `steps` pieces of work.
  void run_some(std::uint64_t& seed, int steps);
  [[nodiscard]] std::size_t pending(const c10::Stream& stream) const;
  [[nodiscard]] std::size_t pending() const;
  /// Of device 0, in the order in which they came to be used.
  [[nodiscard]] std::vector<c10::Stream> streams() const;
  [[nodiscard]] bool is_pinned(const void* data) const;
  [[nodiscard]] std::shared_ptr<native::HostPinning> pinning();

  // Knobs.
  std::set<int> devices_in_use{0};
  bool fails_events = false;  ///< to record or query one is an error
  bool fails_pinning = false;
  bool has_pinned_memory = true;   ///< for tensors
  bool replaces_pinning = false;   ///< loaders pin for this device (fake_host_pinning.cpp)
  std::function<void()> on_query;  ///< runs at each query of an event
  /// So many queries without anything new to do, and everything is done: somebody waits for it.
  std::size_t patience = 200;
  std::size_t fails_allocation = 0;  ///< the so-manieth from now on; 0: none

  // What happened.
  std::vector<std::string> complaints;
  std::size_t pins = 0;
  std::size_t unpins = 0;
  std::size_t pinned_bytes = 0;
  std::size_t events_recorded = 0;
  std::size_t copies = 0;         ///< to the device that were enqueued
  std::size_t uses_recorded = 0;  ///< of memory on a stream, by `record_stream`

  // For LibTorch's side.
  struct Event {
    std::uint64_t recorded = 0;
    std::uint64_t reached = 0;
  };
  struct Block {
    void* data = nullptr;
    std::size_t bytes = 0;
    std::pair<int, std::int64_t> home;
    std::set<std::pair<int, std::int64_t>> others;  // recorded streams
    std::size_t waits_for = 0;                      // of these, since it was freed
    bool is_free = false;
  };
  using Key = std::pair<int, std::int64_t>;
  struct Work {
    std::function<bool()> run;  // false: not yet
    const std::byte* reads = nullptr;
    std::size_t bytes = 0;
  };

  void count_query();
  void complain(std::string_view what);
  void push(Key key, Work work);
  [[nodiscard]] Block* allocate(std::size_t bytes);
  void free(Block* block);
  void record_use(Block* block, Key key);
  void copy_in(void* target, const void* source, std::size_t bytes, std::shared_ptr<void> keeps);
  [[nodiscard]] void* allocate_pinned(std::size_t bytes);
  void free_pinned(void* data);
  [[nodiscard]] bool is_own_pinned(const void* data) const;
  [[nodiscard]] std::shared_ptr<Event> event(void* handle);
  [[nodiscard]] void* create_event();
  void destroy_event(void* handle);
  [[nodiscard]] std::int64_t next_of_pool() { return next_stream_++ % 32 + 1; }
  mutable std::recursive_mutex mutex;

 private:
  friend class FakePinning;
  bool step(Key key);

  std::map<Key, std::deque<Work>> streams_;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::map<const std::byte*, std::size_t> registered_;
  std::map<const std::byte*, std::unique_ptr<std::byte[]>> own_pinned_;
  std::map<const std::byte*, std::size_t> own_pinned_sizes_;
  std::map<void*, std::shared_ptr<Event>> events_;
  std::int64_t next_stream_ = 0;
  std::size_t queries_ = 0;  // since something was enqueued
};

}  // namespace lockstep::testing
