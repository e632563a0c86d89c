// SPDX-License-Identifier: BSD-3-Clause
#include "support/fake_gpu.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace lockstep::testing {
namespace {

template <class Map>
bool holds(const Map& ranges, const std::byte* data) {
  auto after = ranges.upper_bound(data);
  if (after == ranges.begin()) return false;
  --after;
  return data < after->first + after->second;
}

}  // namespace

class FakePinning : public native::HostPinning {
 public:
  [[nodiscard]] c10::DeviceType device_type() const noexcept override { return c10::kPrivateUse1; }
  void pin(void* data, std::size_t bytes) override {
    auto& gpu = FakeGpu::get();
    const std::lock_guard lock(gpu.mutex);
    if (gpu.fails_pinning) throw std::runtime_error("fakeHostRegister: out of memory");
    ++gpu.pins;
    gpu.pinned_bytes = bytes;
    gpu.registered_[static_cast<const std::byte*>(data)] = bytes;
  }
  void unpin(void* data) noexcept override {
    auto& gpu = FakeGpu::get();
    const std::lock_guard lock(gpu.mutex);
    ++gpu.unpins;
    const auto range = gpu.registered_.find(static_cast<const std::byte*>(data));
    if (range == gpu.registered_.end()) return gpu.complain("unpinned what is not");
    for (const auto& [key, work] : gpu.streams_) {
      for (const auto& piece : work) {
        const bool is_inside =
            piece.reads >= range->first && piece.reads < range->first + range->second;
        if (piece.reads != nullptr && is_inside) gpu.complain("unpinned during a copy");
      }
    }
    gpu.registered_.erase(range);
  }
};

void FakeGpu::count_query() {
  const std::lock_guard lock(mutex);
  if (on_query) on_query();
  if (++queries_ > patience) run_all();
}

void FakeGpu::complain(std::string_view what) {
  const std::lock_guard lock(mutex);
  complaints.emplace_back(what);
}

void FakeGpu::reset() {
  run_all();
  const std::lock_guard lock(mutex);
  devices_in_use = {0};
  fails_events = fails_pinning = replaces_pinning = false;
  has_pinned_memory = true;
  on_query = {};
  fails_allocation = 0;
  patience = 200;
  complaints.clear();
  pins = unpins = pinned_bytes = events_recorded = copies = 0;
  streams_.clear();
  for (const auto& block : blocks_) ::operator delete (block->data, std::align_val_t{64});
  blocks_.clear();
  registered_.clear();
}

void FakeGpu::enqueue(std::function<void()> work) {
  const auto stream = current();
  push({stream.device_index(), stream.id()}, {[work = std::move(work)] {
         work();
         return true;
       }});
}

void FakeGpu::push(Key key, Work work) {
  const std::lock_guard lock(mutex);
  queries_ = 0;
  streams_[key].push_back(std::move(work));
}

bool FakeGpu::step(Key key) {
  const std::lock_guard lock(mutex);
  auto& work = streams_[key];
  if (work.empty() || !work.front().run()) return false;
  work.pop_front();
  return true;
}

bool FakeGpu::run_one(const c10::Stream& stream) {
  return step({stream.device_index(), stream.id()});
}

void FakeGpu::run(const c10::Stream& stream) {
  while (run_one(stream)) continue;
}

void FakeGpu::run_all() {
  const std::lock_guard lock(mutex);
  for (bool goes_on = true; goes_on;) {
    goes_on = false;
    std::vector<Key> keys;
    for (const auto& entry : streams_) keys.push_back(entry.first);
    for (const auto& key : keys) {
      while (step(key)) goes_on = true;
    }
  }
  if (pending() != 0) complain("a stream waits for ever");
}

void FakeGpu::run_some(std::uint64_t& seed, int steps) {
  const std::lock_guard lock(mutex);
  std::vector<Key> keys;
  for (const auto& entry : streams_) keys.push_back(entry.first);
  if (keys.empty()) return;
  for (int number = 0; number < steps; ++number) {
    seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
    step(keys[static_cast<std::size_t>(seed >> 33) % keys.size()]);
  }
}

std::size_t FakeGpu::pending(const c10::Stream& stream) const {
  const std::lock_guard lock(mutex);
  const auto found = streams_.find({stream.device_index(), stream.id()});
  return found == streams_.end() ? 0 : found->second.size();
}

std::size_t FakeGpu::pending() const {
  const std::lock_guard lock(mutex);
  std::size_t count = 0;
  for (const auto& [key, work] : streams_) count += work.size();
  return count;
}

std::vector<c10::Stream> FakeGpu::streams() const {
  const std::lock_guard lock(mutex);
  std::vector<c10::Stream> result;
  for (const auto& [key, work] : streams_) {
    if (key.first == 0) result.emplace_back(c10::Stream::UNSAFE, device(), key.second);
  }
  return result;
}

FakeGpu::Block* FakeGpu::allocate(std::size_t bytes) {
  const std::lock_guard lock(mutex);
  if (fails_allocation != 0 && --fails_allocation == 0) {
    throw std::runtime_error("the fake device has no memory left");
  }
  const auto stream = current();
  const Key home{stream.device_index(), stream.id()};
  for (auto block = blocks_.rbegin(); block != blocks_.rend(); ++block) {
    if (!(*block)->is_free || (*block)->waits_for != 0) continue;
    if ((*block)->bytes != bytes || (*block)->home != home) continue;
    (*block)->is_free = false;
    return block->get();
  }
  blocks_.push_back(std::make_unique<Block>());
  auto* block = blocks_.back().get();
  block->data = ::operator new (std::max<std::size_t>(bytes, 1), std::align_val_t{64});
  std::memset(block->data, 0xEE, bytes);
  block->bytes = bytes;
  block->home = home;
  return block;
}

void FakeGpu::free(Block* block) {
  const std::lock_guard lock(mutex);
  block->is_free = true;
  for (const auto& key : std::exchange(block->others, {})) {
    ++block->waits_for;
    push(key, {[block] {
           --block->waits_for;
           return true;
         }});
  }
}

void FakeGpu::record_use(Block* block, Key key) {
  const std::lock_guard lock(mutex);
  ++uses_recorded;
  if (key != block->home) block->others.insert(key);
}

void FakeGpu::copy_in(void* target, const void* source, std::size_t bytes,
                      std::shared_ptr<void> keeps) {
  const auto stream = current();
  const std::lock_guard lock(mutex);
  ++copies;
  push({stream.device_index(), stream.id()}, {[=, keeps = std::move(keeps)] {
                                                std::memcpy(target, source, bytes);
                                                return true;
                                              },
                                              static_cast<const std::byte*>(source), bytes});
}

void* FakeGpu::allocate_pinned(std::size_t bytes) {
  const std::lock_guard lock(mutex);
  TORCH_CHECK(has_pinned_memory, "no pinned memory for ", bytes, " bytes");
  auto memory = std::make_unique<std::byte[]>(bytes);
  auto* data = memory.get();
  own_pinned_[data] = std::move(memory);
  own_pinned_sizes_[data] = bytes;
  return data;
}

void FakeGpu::free_pinned(void* data) {
  const std::lock_guard lock(mutex);
  own_pinned_sizes_.erase(static_cast<const std::byte*>(data));
  own_pinned_.erase(static_cast<const std::byte*>(data));
}

bool FakeGpu::is_own_pinned(const void* data) const {
  const std::lock_guard lock(mutex);
  return holds(own_pinned_sizes_, static_cast<const std::byte*>(data));
}

bool FakeGpu::is_pinned(const void* data) const {
  const std::lock_guard lock(mutex);
  return is_own_pinned(data) || holds(registered_, static_cast<const std::byte*>(data));
}

std::shared_ptr<native::HostPinning> FakeGpu::pinning() {
  return std::make_shared<FakePinning>();
}

std::shared_ptr<FakeGpu::Event> FakeGpu::event(void* handle) {
  const std::lock_guard lock(mutex);
  const auto found = events_.find(handle);
  if (found == events_.end()) throw std::logic_error("an event that is gone");
  return found->second;
}

void* FakeGpu::create_event() {
  const std::lock_guard lock(mutex);
  auto event = std::make_shared<Event>();
  void* handle = event.get();
  events_[handle] = std::move(event);
  return handle;
}

void FakeGpu::destroy_event(void* handle) {
  const std::lock_guard lock(mutex);
  if (events_.erase(handle) == 0) complain("an event destroyed twice");
}

}  // namespace lockstep::testing
