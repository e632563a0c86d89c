// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/buckets/gradient_arena.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <shared_mutex>
#include <utility>

#include "parallel/buckets/storage_memory.h"

namespace lockstep {
namespace {

// Smaller gradients are copied, which costs nothing; too many other tensors are as small.
constexpr std::size_t kSmallestBlock = 256;

/// All arenas of the process. A pointer that is its own context does not tell which arena it comes
/// from. The list is never destroyed, since tensors may outlive everything.
struct Arenas {
  std::shared_mutex mutex;
  std::vector<GradientArena*> list;

  static Arenas& get() {
    static auto* const arenas = new Arenas;
    return *arenas;
  }
};

}  // namespace

std::shared_ptr<GradientArena> GradientArena::create(at::Tensor memory, ArenaLayout layout) {
  return std::shared_ptr<GradientArena>(new GradientArena(std::move(memory), std::move(layout)));
}

GradientArena::GradientArena(at::Tensor memory, ArenaLayout layout)
    : memory_(std::move(memory)), layout_(std::move(layout)) {
  owned_.resize(layout_.size_of.size());
  for (std::size_t number = 0; number < layout_.sizes.size(); ++number) {
    const auto& size = layout_.sizes[number];
    counts_.push_back({.free = size.blocks});
    for (std::size_t i = 0; i < size.blocks; ++i) {
      blocks_.push_back(
          {.size = number, .begin = size.begin + i * ArenaLayout::padded(size.bytes)});
    }
  }
  const std::lock_guard lock(Arenas::get().mutex);
  Arenas::get().list.push_back(this);
}

GradientArena::~GradientArena() {
  const std::lock_guard lock(Arenas::get().mutex);
  std::erase(Arenas::get().list, this);
}

c10::DataPtr GradientArena::allocate(std::size_t bytes) {
  // Outside of the lock: these never change.
  if (bytes < kSmallestBlock) return {};
  const auto size = std::find_if(layout_.sizes.begin(), layout_.sizes.end(),
                                 [&](const auto& known) { return known.bytes == bytes; });
  if (size == layout_.sizes.end()) return {};
  const auto number = static_cast<std::size_t>(size - layout_.sizes.begin());
  const std::lock_guard lock(mutex_);
  if (counts_[number].current == size->blocks) return {};
  if (has_too_few(number) && !cut_spare(number)) return {};
  const auto block = find_free(number);
  if (!block) return {};
  blocks_[*block].state = State::Allocated;
  --counts_[number].free;
  return make_pointer(*block);
}

bool GradientArena::has_too_few(std::size_t size) const {
  const Count& count = counts_[size];
  return count.free == 0 || count.free - 1 + count.owned < layout_.sizes[size].blocks;
}

bool GradientArena::try_keep(std::size_t parameter, const at::Tensor& gradient) {
  const std::lock_guard lock(mutex_);
  const auto block = block_of(gradient);
  if (!block || blocks_[*block].size != layout_.size_of[parameter]) return false;
  if (blocks_[*block].state != State::Allocated && owned_[parameter] != block) return false;
  set_owner(*block, parameter, State::Current);
  note_storage(*block, gradient.storage());
  return true;
}

at::Tensor GradientArena::make(std::size_t parameter, const at::Tensor& like,
                               const at::Tensor& current) {
  const std::size_t size = layout_.size_of[parameter];
  const auto make_in = [&](const c10::Storage& storage) {
    return at::empty({0}, memory_.options()).set_(storage, 0, like.sizes(), like.strides());
  };
  if (current.defined() && current.has_storage()) {
    const std::lock_guard lock(mutex_);
    const auto block = block_at(current.storage().data());
    if (block && owned_[parameter] == block) {
      set_owner(*block, parameter, State::Current);
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
      block = owned_[parameter];  // another thread is just freeing it
    }
    TORCH_INTERNAL_ASSERT(block, "gradient arena: no block of ", layout_.sizes[size].bytes,
                          " bytes is left");
    set_owner(*block, parameter, State::Current);
    storage = c10::Storage(c10::Storage::use_byte_size_t(), layout_.sizes[size].bytes,
                           make_pointer(*block), /*allocator=*/nullptr, /*resizable=*/false);
    note_storage(*block, storage);
  }
  return make_in(storage);
}

std::optional<std::size_t> GradientArena::block_to_clear(std::size_t parameter) {
  const std::lock_guard lock(mutex_);
  const std::size_t size = layout_.size_of[parameter];
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
  // This frees the block.
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
  if (!block || blocks_[*block].state != State::Allocated ||
      blocks_[*block].size != layout_.size_of[parameter]) {
    return;
  }
  const auto own = owned_[parameter];
  if (own && blocks_[*own].state != State::Latest) return;
  set_owner(*block, parameter, State::Latest);
  note_storage(*block, gradient.storage());
}

void GradientArena::end_iteration() {
  const std::lock_guard lock(mutex_);
  for (const auto& block : owned_) {
    if (block) blocks_[*block].state = State::Latest;
  }
  for (Count& count : counts_) count.current = 0;
}

std::byte* GradientArena::begin() const noexcept {
  return static_cast<std::byte*>(memory_.mutable_data_ptr());
}

bool GradientArena::holds(const void* data) const noexcept {
  return data >= begin() && data < begin() + layout_.bytes;
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
  if (!block || layout_.sizes[blocks_[*block].size].bytes != gradient.nbytes()) {
    return std::nullopt;
  }
  return block;
}

/// Spare memory comes last: as long as it is not needed, nothing touches it.
std::optional<std::size_t> GradientArena::find_free(std::size_t size) const {
  const auto is_free = [&](const Block& block) {
    return block.size == size && block.state == State::Free;
  };
  const auto first = blocks_.begin() + static_cast<std::ptrdiff_t>(layout_.sizes[size].first);
  const auto found = std::find_if(first, blocks_.end(), is_free);
  if (found == blocks_.end()) return std::nullopt;
  return static_cast<std::size_t>(found - blocks_.begin());
}

bool GradientArena::cut_spare(std::size_t size) {
  const std::size_t bytes = ArenaLayout::padded(layout_.sizes[size].bytes);
  const auto spare = blocks_.begin() + static_cast<std::ptrdiff_t>(owned_.size());
  // The first gap that is large enough: move past each block that is in the way.
  std::size_t begin = layout_.spare_begin;
  const auto is_in_the_way = [&](const Block& block) {
    return block.state != State::None && block.begin < begin + bytes &&
           begin < block.begin + ArenaLayout::padded(layout_.sizes[block.size].bytes);
  };
  for (auto other = std::find_if(spare, blocks_.end(), is_in_the_way); other != blocks_.end();
       other = std::find_if(spare, blocks_.end(), is_in_the_way)) {
    begin = other->begin + ArenaLayout::padded(layout_.sizes[other->size].bytes);
  }
  if (begin + bytes > layout_.bytes) return false;
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

c10::DataPtr GradientArena::make_pointer(std::size_t block) {
  ++blocks_[block].pointers;
  if (pointers_++ == 0) self_ = shared_from_this();
  void* const data = begin() + blocks_[block].begin;
  return {data, data, [](void* pointer) { free(pointer); }, c10::Device(c10::kCPU)};
}

// The block that the parameter had till now is for whoever still keeps a tensor in it.
void GradientArena::set_owner(std::size_t block, std::size_t parameter, State state) {
  Count& count = counts_[blocks_[block].size];
  if (owned_[parameter] != block) {
    if (owned_[parameter]) blocks_[*owned_[parameter]].state = State::Old;
    if (!owned_[parameter]) ++count.owned;
    owned_[parameter] = block;
  }
  if (state == State::Current && blocks_[block].state != State::Current) ++count.current;
  blocks_[block].state = state;
  blocks_[block].parameter = parameter;
  return_spare(blocks_[block].size);
}

void GradientArena::note_storage(std::size_t block, const c10::Storage& storage) {
  blocks_[block].storage.emplace(storage.getWeakStorageImpl());
}

bool GradientArena::free(void* data) noexcept {
  GradientArena* arena = nullptr;
  {
    const std::shared_lock lock(Arenas::get().mutex);
    for (GradientArena* const other : Arenas::get().list) {
      if (other->holds(data)) arena = other;
    }
  }
  if (arena == nullptr) return false;
  // Pointers keep the arena alive: the last one destroys it here, when its lock is free again.
  const auto last = arena->drop_pointer(data);
  return true;
}

std::shared_ptr<GradientArena> GradientArena::drop_pointer(void* data) noexcept {
  const std::lock_guard lock(mutex_);
  Block& block = blocks_[*block_at(data)];
  if (--block.pointers == 0) {
    Count& count = counts_[block.size];
    if (block.state == State::Current) --count.current;
    if (block.state == State::Latest || block.state == State::Current) {
      owned_[block.parameter].reset();
      --count.owned;
    }
    block.state = State::Free;
    block.storage.reset();
    ++count.free;
    return_spare(block.size);
  }
  return --pointers_ == 0 ? std::move(self_) : nullptr;
}

}  // namespace lockstep
