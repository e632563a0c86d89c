// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/buckets/gradient_arena.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <shared_mutex>
#include <utility>

#include "parallel/buckets/storage_memory.h"

namespace lockstep {
namespace {

// Gradients begin on cache lines, so that the kernels that write them need not start askew.
constexpr std::size_t kAlignment = 64;
// Smaller ones are copied, which costs nothing; too much else is as small.
constexpr std::size_t kSmallestLent = 256;

// For gradients that are being made beside temporary tensors of their size, as oneDNN needs them.
// Very large ones, those of embeddings, need none.
constexpr std::size_t kMuchSpare = std::size_t{64} << 20;

std::size_t round_up(std::size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

/// All arenas of the process: a pointer that is its own context says nothing else of where it comes
/// from. Never destroyed, since tensors may outlive everything.
struct Arenas {
  std::shared_mutex mutex;
  std::vector<GradientArena*> list;

  static Arenas& get() {
    static auto* const arenas = new Arenas;
    return *arenas;
  }
};

}  // namespace

GradientArena::Division GradientArena::divide(const std::vector<std::size_t>& gradients) {
  Division division;
  std::size_t largest = 0;
  for (const std::size_t bytes : gradients) {
    const auto known = std::find_if(division.sizes.begin(), division.sizes.end(),
                                    [&](const auto& size) { return size.bytes == bytes; });
    division.size_of.push_back(static_cast<std::size_t>(known - division.sizes.begin()));
    if (known == division.sizes.end()) division.sizes.push_back({.bytes = bytes});
    ++division.sizes[division.size_of.back()].blocks;
    largest = std::max(largest, bytes);
  }
  std::size_t blocks = 0;
  for (auto& size : division.sizes) {
    size.first = blocks;
    size.begin = division.bytes;
    blocks += size.blocks;
    division.bytes += size.blocks * round_up(size.bytes);
  }
  division.spare_begin = division.bytes;
  division.bytes += round_up(std::max(largest, std::min(3 * largest, kMuchSpare)));
  return division;
}

std::shared_ptr<GradientArena> GradientArena::create(at::Tensor memory, Division division) {
  return std::shared_ptr<GradientArena>(new GradientArena(std::move(memory), std::move(division)));
}

GradientArena::GradientArena(at::Tensor memory, Division division)
    : memory_(std::move(memory)), division_(std::move(division)) {
  owned_.resize(division_.size_of.size());
  for (std::size_t number = 0; number < division_.sizes.size(); ++number) {
    const auto& size = division_.sizes[number];
    counts_.push_back({.free = size.blocks});
    for (std::size_t i = 0; i < size.blocks; ++i) {
      blocks_.push_back({.size = number, .begin = size.begin + i * round_up(size.bytes)});
    }
  }
  const std::lock_guard lock(Arenas::get().mutex);
  Arenas::get().list.push_back(this);
}

GradientArena::~GradientArena() {
  const std::lock_guard lock(Arenas::get().mutex);
  std::erase(Arenas::get().list, this);
}

c10::DataPtr GradientArena::lend(std::size_t bytes) {
  // Outside of the lock: these never change.
  if (bytes < kSmallestLent) return {};
  const auto size = std::find_if(division_.sizes.begin(), division_.sizes.end(),
                                 [&](const auto& known) { return known.bytes == bytes; });
  if (size == division_.sizes.end()) return {};
  const auto number = static_cast<std::size_t>(size - division_.sizes.begin());
  const std::lock_guard lock(mutex_);
  if (counts_[number].taken == size->blocks) return {};
  if (has_too_few(number) && !cut_spare(number)) return {};
  const auto block = find_free(number);
  if (!block) return {};
  blocks_[*block].state = State::Lent;
  --counts_[number].free;
  return lease(*block);
}

bool GradientArena::has_too_few(std::size_t size) const {
  const Count& count = counts_[size];
  return count.free == 0 || count.free - 1 + count.owned < division_.sizes[size].blocks;
}

bool GradientArena::take(std::size_t parameter, const at::Tensor& gradient) {
  const std::lock_guard lock(mutex_);
  const auto block = block_of(gradient);
  if (!block || blocks_[*block].size != division_.size_of[parameter]) return false;
  if (blocks_[*block].state != State::Lent && owned_[parameter] != block) return false;
  set_owner(*block, parameter, State::Taken);
  note_storage(*block, gradient.storage());
  return true;
}

at::Tensor GradientArena::make(std::size_t parameter, const at::Tensor& like,
                               const at::Tensor& current) {
  const std::size_t size = division_.size_of[parameter];
  const auto make_in = [&](const c10::Storage& storage) {
    return at::empty({0}, memory_.options()).set_(storage, 0, like.sizes(), like.strides());
  };
  if (current.defined() && current.has_storage()) {
    const std::lock_guard lock(mutex_);
    const auto block = block_at(current.storage().data());
    if (block && owned_[parameter] == block) {
      set_owner(*block, parameter, State::Taken);
      return make_in(current.storage());
    }
  }
  if (const auto kept = block_to_clear(parameter)) move_away(*kept);
  c10::Storage storage;
  {
    const std::lock_guard lock(mutex_);
    auto block = find_free(size);
    if (block) {
      --counts_[size].free;
    } else {
      block = owned_[parameter];  // another thread is just letting go of it
    }
    TORCH_INTERNAL_ASSERT(block, "gradient arena: no block of ", division_.sizes[size].bytes,
                          " bytes is left");
    set_owner(*block, parameter, State::Taken);
    storage = c10::Storage(c10::Storage::use_byte_size_t(), division_.sizes[size].bytes,
                           lease(*block), /*allocator=*/nullptr, /*resizable=*/false);
    note_storage(*block, storage);
  }
  return make_in(storage);
}

std::optional<std::size_t> GradientArena::block_to_clear(std::size_t parameter) {
  const std::lock_guard lock(mutex_);
  const std::size_t size = division_.size_of[parameter];
  if (!owned_[parameter] || !has_too_few(size) || cut_spare(size)) return std::nullopt;
  return owned_[parameter];
}

void GradientArena::move_away(std::size_t block) {
  c10::intrusive_ptr<c10::StorageImpl> storage;
  const void* data = nullptr;
  {
    const std::lock_guard lock(mutex_);
    if (blocks_[block].storage) storage = blocks_[block].storage->lock();
    data = begin() + blocks_[block].begin;
  }
  if (!storage || storage->data() != data) return;
  // What comes back is let go of here.
  static_cast<void>(move_to_ordinary_memory(c10::Storage(std::move(storage))));
}

void GradientArena::vacate() noexcept {
  const auto self = shared_from_this();  // as long as gradients are the last to hold this
  std::size_t blocks = 0;
  {
    const std::lock_guard lock(mutex_);
    blocks = blocks_.size();
  }
  for (std::size_t block = 0; block < blocks; ++block) {
    try {
      move_away(block);
    } catch (...) {  // it stays where it is
      return;
    }
  }
}

void GradientArena::adopt(std::size_t parameter, const at::Tensor& gradient) {
  const std::lock_guard lock(mutex_);
  const auto block = block_of(gradient);
  if (!block || blocks_[*block].state != State::Lent ||
      blocks_[*block].size != division_.size_of[parameter]) {
    return;
  }
  const auto own = owned_[parameter];
  if (own && blocks_[*own].state != State::Given) return;
  set_owner(*block, parameter, State::Given);
  note_storage(*block, gradient.storage());
}

void GradientArena::end_cycle() {
  const std::lock_guard lock(mutex_);
  for (const auto& block : owned_) {
    if (block) blocks_[*block].state = State::Given;
  }
  for (Count& count : counts_) count.taken = 0;
}

std::byte* GradientArena::begin() const noexcept {
  return static_cast<std::byte*>(memory_.mutable_data_ptr());
}

bool GradientArena::holds(const void* data) const noexcept {
  return data >= begin() && data < begin() + division_.bytes;
}

std::optional<std::int64_t> GradientArena::place_of(const at::Tensor& tensor) const {
  const void* data = tensor.const_data_ptr();
  if (!holds(data)) return std::nullopt;
  return (static_cast<const std::byte*>(data) - begin()) / tensor.element_size();
}

std::optional<std::size_t> GradientArena::block_at(const void* data) const {
  if (!holds(data)) return std::nullopt;
  const auto offset = static_cast<std::size_t>(static_cast<const std::byte*>(data) - begin());
  const auto is_it = [&](const Block& block) {
    return block.state != State::None && block.begin == offset;
  };
  const auto found = std::find_if(blocks_.begin(), blocks_.end(), is_it);
  if (found == blocks_.end()) return std::nullopt;
  return static_cast<std::size_t>(found - blocks_.begin());
}

std::optional<std::size_t> GradientArena::block_of(const at::Tensor& gradient) const {
  const auto block = block_at(gradient.const_data_ptr());
  if (!block || division_.sizes[blocks_[*block].size].bytes != gradient.nbytes()) {
    return std::nullopt;
  }
  return block;
}

/// Spare memory last: as long as it is not needed, nobody touches it.
std::optional<std::size_t> GradientArena::find_free(std::size_t size) const {
  const auto is_free = [&](const Block& block) {
    return block.size == size && block.state == State::Free;
  };
  const auto first = blocks_.begin() + static_cast<std::ptrdiff_t>(division_.sizes[size].first);
  const auto found = std::find_if(first, blocks_.end(), is_free);
  if (found == blocks_.end()) return std::nullopt;
  return static_cast<std::size_t>(found - blocks_.begin());
}

bool GradientArena::cut_spare(std::size_t size) {
  const std::size_t bytes = round_up(division_.sizes[size].bytes);
  const auto spare = blocks_.begin() + static_cast<std::ptrdiff_t>(owned_.size());
  // The first gap that is large enough: move past each block that is in the way.
  std::size_t begin = division_.spare_begin;
  const auto is_in_the_way = [&](const Block& block) {
    return block.state != State::None && block.begin < begin + bytes &&
           begin < block.begin + round_up(division_.sizes[block.size].bytes);
  };
  for (auto other = std::find_if(spare, blocks_.end(), is_in_the_way); other != blocks_.end();
       other = std::find_if(spare, blocks_.end(), is_in_the_way)) {
    begin = other->begin + round_up(division_.sizes[other->size].bytes);
  }
  if (begin + bytes > division_.bytes) return false;
  const Block block{.size = size, .begin = begin};
  const auto unused =
      std::find_if(spare, blocks_.end(), [](const Block& old) { return old.state == State::None; });
  if (unused == blocks_.end()) {
    blocks_.push_back(block);
  } else {
    *unused = block;
  }
  ++counts_[size].free;
  return true;
}

void GradientArena::return_spare(std::size_t size) {
  for (std::size_t i = owned_.size(); i < blocks_.size() && !has_too_few(size); ++i) {
    Block& block = blocks_[i];
    if (block.size != size || block.state != State::Free) continue;
    block.state = State::None;
    --counts_[size].free;
  }
}

c10::DataPtr GradientArena::lease(std::size_t block) {
  ++blocks_[block].leases;
  if (leases_++ == 0) self_ = shared_from_this();
  void* const data = begin() + blocks_[block].begin;
  return {data, data, [](void* pointer) { give_back(pointer); }, c10::Device(c10::kCPU)};
}

/// What the parameter had till now is for whoever still keeps it.
void GradientArena::set_owner(std::size_t block, std::size_t parameter, State state) {
  Count& count = counts_[blocks_[block].size];
  if (owned_[parameter] != block) {
    if (owned_[parameter]) blocks_[*owned_[parameter]].state = State::Old;
    if (!owned_[parameter]) ++count.owned;
    owned_[parameter] = block;
  }
  if (state == State::Taken && blocks_[block].state != State::Taken) ++count.taken;
  blocks_[block].state = state;
  blocks_[block].parameter = parameter;
  return_spare(blocks_[block].size);
}

void GradientArena::note_storage(std::size_t block, const c10::Storage& storage) {
  blocks_[block].storage.emplace(storage.getWeakStorageImpl());
}

bool GradientArena::give_back(void* data) noexcept {
  GradientArena* arena = nullptr;
  {
    const std::shared_lock lock(Arenas::get().mutex);
    for (GradientArena* const other : Arenas::get().list) {
      if (other->holds(data)) arena = other;
    }
  }
  if (arena == nullptr) return false;
  // Whoever has a lease keeps the arena alive; the last one lets go of it here, after its lock.
  const auto last = arena->end_lease(data);
  return true;
}

std::shared_ptr<GradientArena> GradientArena::end_lease(void* data) noexcept {
  const std::lock_guard lock(mutex_);
  Block& block = blocks_[*block_at(data)];
  if (--block.leases == 0) {
    Count& count = counts_[block.size];
    if (block.state == State::Taken) --count.taken;
    if (block.state == State::Given || block.state == State::Taken) {
      owned_[block.parameter].reset();
      --count.owned;
    }
    block.state = State::Free;
    block.storage.reset();
    ++count.free;
    return_spare(block.size);
  }
  return --leases_ == 0 ? std::move(self_) : nullptr;
}

}  // namespace lockstep
