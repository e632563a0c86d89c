// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/buckets/gradient_storage.h"

#include <lockstep/core/error.h>
#include <lockstep/core/logging.h>
#include <torch/csrc/autograd/engine.h>

#include <algorithm>
#include <utility>

#include "comm/group/group_core.h"
#include "parallel/buckets/arena_allocator.h"
#include "parallel/buckets/arena_bucket.h"
#include "parallel/buckets/flat_bucket.h"

namespace lockstep {
namespace {

// The dtype in which gradients of this parameter travel.
at::ScalarType travelling_dtype(const at::Tensor& parameter,
                                const DistributedDataParallelOptions& options) {
  const at::ScalarType own = parameter.scalar_type();
  const auto wanted = options.reduce_dtype();
  const bool is_smaller =
      wanted && at::isFloatingType(own) && c10::elementSize(*wanted) < c10::elementSize(own);
  return is_smaller ? *wanted : own;
}

}  // namespace

std::vector<GradientShape> gradient_shapes_of(const std::vector<at::Tensor>& parameters,
                                              const DistributedDataParallelOptions& options) {
  std::vector<GradientShape> shapes;
  for (const at::Tensor& tensor : parameters) {
    shapes.push_back({static_cast<std::size_t>(tensor.numel()), travelling_dtype(tensor, options),
                      tensor.device()});
  }
  return shapes;
}

GradientStorage::GradientStorage(ProcessGroup& group, std::vector<at::Tensor> parameters,
                                 const DistributedDataParallelOptions& options)
    : group_(group),
      parameters_(std::move(parameters)),
      shapes_(gradient_shapes_of(parameters_, options)),
      may_have_arenas_(options.gradients_in_group_memory()),
      is_symmetric_(options.symmetric_memory()) {
  for (std::size_t i = 0; i < shapes_.size(); ++i) {
    const auto is_alike = [&](const Memory& memory) {
      return memory.dtype == shapes_[i].dtype && memory.device == shapes_[i].device;
    };
    auto memory = std::find_if(memories_.begin(), memories_.end(), is_alike);
    if (memory == memories_.end()) {
      memory = memories_.emplace(memories_.end());
      memory->dtype = shapes_[i].dtype;
      memory->device = shapes_[i].device;
    }
    memory->parameters.push_back(i);
  }
  for (Memory& memory : memories_) {
    std::string obstacle;
    if (allocate_arena(memory, obstacle)) continue;
    allocate_flat(memory);
    if (obstacle.empty()) continue;
    logging::warning(
        "DistributedDataParallel: gradients will be copied, since there is no memory to make them "
        "in, with some to spare: " +
        obstacle);
  }
}

bool GradientStorage::allocate_arena(Memory& memory, std::string& obstacle) {
  const auto travels_as_it_is = [&](std::size_t i) {
    return parameters_[i].scalar_type() == memory.dtype;
  };
  if (!may_have_arenas_ || !memory.device.is_cpu() ||
      !std::all_of(memory.parameters.begin(), memory.parameters.end(), travels_as_it_is)) {
    return false;
  }
  memory.places = group_.allocate({static_cast<std::int64_t>(memory.parameters.size())},
                                  at::TensorOptions(at::kLong));
  if (!group_.can_reduce_indexed(memory.places)) {
    memory.places.reset();
    return false;
  }
  std::vector<std::size_t> gradients;
  memory.numbers.resize(parameters_.size());
  for (const std::size_t i : memory.parameters) {
    memory.numbers[i] = gradients.size();
    gradients.push_back(shapes_[i].bytes());
  }
  const auto layout = ArenaLayout::of(gradients);
  const std::size_t element = c10::elementSize(memory.dtype);
  const auto elements = static_cast<std::int64_t>((layout.bytes + element - 1) / element);
  try {
    const at::Tensor all = group_.allocate({elements}, at::TensorOptions(memory.dtype));
    group_.mark_indexed(all);
    memory.arena = GradientArena::create(all, layout);
  } catch (const CommError& error) {
    // Buckets need less, and all ranks see this error.
    obstacle = error.what();
    memory.places.reset();
    return false;
  }
  install_arena_allocator();
  return true;
}

void GradientStorage::allocate_flat(Memory& memory) {
  // The size does not depend on the buckets: every gradient begins on a cache line.
  const BucketSpec all{memory.parameters, memory.dtype, memory.device};
  const auto elements = static_cast<std::int64_t>(FlatBucket::elements_for(all, shapes_));
  // Buckets lie at the same places on all ranks: these compare what the places follow from.
  memory.flat = group_.core().allocate(
      {elements}, at::TensorOptions(memory.dtype).device(memory.device), is_symmetric_);
}

bool GradientStorage::has_arena() const {
  return std::any_of(memories_.begin(), memories_.end(),
                     [](const Memory& memory) { return memory.arena != nullptr; });
}

void GradientStorage::use_flat_memory() {
  close();
  // All or nothing: an error leaves everything as it was.
  for (Memory& memory : memories_) {
    if (memory.arena) allocate_flat(memory);
  }
  vacate_arenas();
  for (Memory& memory : memories_) {
    memory.arena.reset();
    memory.places.reset();
  }
}

std::vector<std::unique_ptr<GradientBucket>> GradientStorage::make_buckets(
    const std::vector<BucketSpec>& specs, const std::vector<std::string>& names) const {
  std::vector<std::unique_ptr<GradientBucket>> buckets;
  std::vector<std::int64_t> used(memories_.size(), 0);
  for (const BucketSpec& spec : specs) {
    buckets.push_back(make_bucket(spec, used, names[buckets.size()]));
  }
  return buckets;
}

std::unique_ptr<GradientBucket> GradientStorage::make_bucket(const BucketSpec& spec,
                                                             std::vector<std::int64_t>& used,
                                                             const std::string& name) const {
  std::size_t kind = 0;
  while (memories_[kind].dtype != spec.dtype || memories_[kind].device != spec.device) ++kind;
  const Memory& memory = memories_[kind];
  if (memory.arena) {
    std::vector<std::size_t> numbers;
    for (const std::size_t index : spec.parameters) numbers.push_back(memory.numbers[index]);
    const auto places = static_cast<std::int64_t>(numbers.size());
    const auto first = std::exchange(used[kind], used[kind] + places);
    return std::make_unique<ArenaBucket>(spec, memory.arena, std::move(numbers),
                                         memory.places.narrow(0, first, places), parameters_, name);
  }
  const auto elements = static_cast<std::int64_t>(FlatBucket::elements_for(spec, shapes_));
  const auto first = std::exchange(used[kind], used[kind] + elements);
  const at::Tensor flat = memory.flat.narrow(0, first, elements);
  const bool is_summed = is_symmetric_ && group_.core().prefers_sum(flat);
  return std::make_unique<FlatBucket>(spec, flat, parameters_, name, is_summed);
}

void GradientStorage::open() {
  if (!opened_.expired()) return;
  std::vector<std::shared_ptr<GradientArena>> arenas;
  for (const Memory& memory : memories_) {
    if (!memory.arena || has_failed_) continue;
    allocate_in_this_thread(memory.arena);
    arenas.push_back(memory.arena);
  }
  const std::shared_ptr<void> guard(nullptr, [arenas = std::move(arenas)](void*) {
    for (const auto& arena : arenas) arena->close();
  });
  opened_ = guard;
  torch::autograd::Engine::get_default_engine().queue_callback([guard] {});
}

void GradientStorage::close() noexcept {
  for (const Memory& memory : memories_) {
    if (memory.arena) memory.arena->close();
  }
}

void GradientStorage::end_iteration() noexcept {
  for (const Memory& memory : memories_) {
    if (memory.arena) memory.arena->end_iteration();
  }
}

void GradientStorage::vacate_arenas() noexcept {
  for (const Memory& memory : memories_) {
    if (memory.arena) memory.arena->vacate();
  }
}

}  // namespace lockstep
