// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/buckets/arena_bucket.h"

#include <c10/core/impl/COW.h>

#include <utility>

#include "parallel/buckets/storage_aliases.h"

namespace lockstep {
namespace {

// Autograd makes a parameter's gradient of a tensor that nobody else holds, but others may look at
// the same memory: the gradient may be a view of one that is still to be read.
bool has_memory_of_its_own(const at::Tensor& gradient, const at::Tensor& incoming) {
  if (c10::impl::cow::is_cow_data_ptr(gradient.storage().data_ptr())) return false;
  StorageAliases aliases;
  aliases.add(gradient);
  const bool is_same = incoming.defined() && incoming.has_storage() &&
                       incoming.storage().is_alias_of(gradient.storage());
  if (is_same) aliases.add(incoming);
  return aliases.are_all(gradient.storage());
}

}  // namespace

ArenaBucket::ArenaBucket(const BucketSpec& spec, std::shared_ptr<GradientArena> arena,
                         std::vector<std::size_t> numbers, at::Tensor places,
                         const std::vector<at::Tensor>& parameters, std::string name)
    : GradientBucket(spec, parameters, std::move(name)),
      arena_(std::move(arena)),
      numbers_(std::move(numbers)),
      places_(std::move(places)) {}

void ArenaBucket::prepare_view(std::size_t place, const at::Tensor& gradient,
                               const at::Tensor& incoming, bool leaves_it) {
  const at::Tensor& like = shape(place);
  if (leaves_it) {
    own_view(place) = arena_->make(numbers_[place], like);
  } else if (is_laid_out_as(like, gradient) && has_memory_of_its_own(gradient, incoming) &&
             arena_->try_keep(numbers_[place], gradient)) {
    own_view(place) = gradient;
  } else {
    const bool may_be_there = gradient.defined() && gradient.layout() == at::kStrided;
    own_view(place) = arena_->make(numbers_[place], like, may_be_there ? gradient : at::Tensor());
  }
}

void ArenaBucket::note_waiting(std::size_t place, const at::Tensor& gradient,
                               const at::Tensor& incoming) {
  if (is_laid_out_as(shape(place), gradient) && has_memory_of_its_own(gradient, incoming)) {
    arena_->adopt(numbers_[place], gradient);
  }
}

void ArenaBucket::multiply(double factor) {
  if (factor == 1) return;
  for (std::size_t place = 0; place < places(); ++place) own_view(place).mul_(factor);
}

// The arena knows who holds what lies in it, and moves it when the memory is wanted.
void ArenaBucket::vacate() {}

Work ArenaBucket::all_reduce(ProcessGroup& group) {
  auto* const begins = places_.mutable_data_ptr<std::int64_t>();
  ProcessGroup::IndexedBlocks pieces{arena_->memory(), places_, {}};
  for (std::size_t place = 0; place < places(); ++place) {
    begins[place] = *arena_->place_of(own_view(place));
    pieces.counts.push_back(own_view(place).numel());
  }
  return group.all_reduce(pieces, ReduceOp::Avg);
}

void ArenaBucket::reset() {
  GradientBucket::reset();
  for (std::size_t place = 0; place < places(); ++place) own_view(place) = at::Tensor();
}

}  // namespace lockstep
