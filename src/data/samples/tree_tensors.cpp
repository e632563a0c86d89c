// SPDX-License-Identifier: BSD-3-Clause
#include "data/samples/tree_tensors.h"

#include <ATen/ops/empty_like.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <iterator>
#include <string>
#include <utility>

#include "data/samples/tree_path.h"

namespace lockstep::data {
namespace {

/// Samples that are about to become a batch; `at` is the number of the one that is looked at.
struct Stacking {
  std::vector<SampleTree> samples;
  std::size_t& at;
};

SampleTree stack_at(Stacking stacking, const std::string& where);

[[noreturn]] void refuse(const std::string& where, const SampleTree& first,
                         const SampleTree& other) {
  TORCH_CHECK(false, name_of_part(where), " is ", other.describe(),
              "; in the first of the batch it is ", first.describe(),
              ", and samples must be alike to be stacked (or give the loader a collate function)");
}

// Calls `is_alike` for each of them.
template <class IsAlike>
void check_alike(const Stacking& stacking, const std::string& where, const IsAlike& is_alike) {
  const auto& samples = stacking.samples;
  for (stacking.at = 0; stacking.at < samples.size(); ++stacking.at) {
    if (!is_alike(samples[stacking.at])) refuse(where, samples[0], samples[stacking.at]);
  }
  stacking.at = 0;
}

SampleTree stack_tensors(const Stacking& stacking, const std::string& where) {
  const auto first = stacking.samples[0].tensor();
  check_alike(stacking, where, [&](const SampleTree& sample) {
    return sample.is_tensor() && sample.tensor().sizes() == first.sizes() &&
           sample.tensor().scalar_type() == first.scalar_type();
  });
  std::vector<at::Tensor> tensors;
  tensors.reserve(stacking.samples.size());
  for (const auto& sample : stacking.samples) tensors.push_back(sample.tensor());
  return at::stack(tensors);
}

SampleTree stack_lists(Stacking& stacking, const std::string& where) {
  const auto count = stacking.samples[0].list().size();
  check_alike(stacking, where, [&](const SampleTree& sample) {
    return sample.is_list() && sample.list().size() == count;
  });
  SampleTree::List result;
  for (std::size_t child = 0; child < count; ++child) {
    Stacking column{{}, stacking.at};
    for (auto& sample : stacking.samples) {
      column.samples.push_back(std::move(sample.list()[child]));
    }
    result.push_back(stack_at(std::move(column), path_below(where, std::to_string(child))));
  }
  return result;
}

SampleTree stack_maps(Stacking& stacking, const std::string& where) {
  const auto& parts = stacking.samples[0].map();
  check_alike(stacking, where, [&](const SampleTree& sample) {
    return sample.is_map() && sample.map().size() == parts.size() &&
           std::all_of(parts.begin(), parts.end(),
                       [&](const auto& entry) { return sample.map().count(entry.first) != 0; });
  });
  SampleTree::Map result;
  for (const auto& entry : parts) {
    Stacking column{{}, stacking.at};
    for (const auto& sample : stacking.samples) {
      column.samples.push_back(sample.map().at(entry.first));
    }
    result.emplace(entry.first, stack_at(std::move(column), path_below(where, entry.first)));
  }
  return result;
}

SampleTree stack_at(Stacking stacking, const std::string& where) {
  const SampleTree& first = stacking.samples[0];
  if (first.is_tensor()) return stack_tensors(stacking, where);
  if (first.is_list()) return stack_lists(stacking, where);
  if (first.is_map()) return stack_maps(stacking, where);
  check_alike(stacking, where, [&](const SampleTree& sample) {
    return sample.is_nothing() == first.is_nothing() && sample.is_string() == first.is_string() &&
           sample.is_bytes() == first.is_bytes();
  });
  if (first.is_nothing()) return {};
  return SampleTree::List(std::make_move_iterator(stacking.samples.begin()),
                          std::make_move_iterator(stacking.samples.end()));
}

}  // namespace

SampleTree stack(std::vector<SampleTree> samples) {
  std::size_t at = 0;
  return stack(std::move(samples), at);
}

SampleTree stack(std::vector<SampleTree> samples, std::size_t& at) {
  at = 0;
  if (samples.empty()) return {};
  return stack_at({std::move(samples), at}, "");
}

SampleTree map_tensors(const SampleTree& tree,
                       const std::function<at::Tensor(const at::Tensor&)>& change) {
  if (tree.is_tensor()) return change(tree.tensor());
  if (tree.is_list()) {
    SampleTree::List result;
    for (const auto& child : tree.list()) result.push_back(map_tensors(child, change));
    return result;
  }
  if (tree.is_map()) {
    SampleTree::Map result;
    for (const auto& [key, child] : tree.map()) result.emplace(key, map_tensors(child, change));
    return result;
  }
  return tree;
}

SampleTree clone_into_pinned_memory(const SampleTree& tree) {
  return map_tensors(tree, [](const at::Tensor& tensor) {
    if (!tensor.is_cpu()) return tensor;
    if (tensor.layout() != at::kStrided) return tensor.pin_memory();
    return at::empty_like(tensor, tensor.options().pinned_memory(true)).copy_(tensor);
  });
}

SampleTree clone(const SampleTree& tree) {
  return map_tensors(tree, [](const at::Tensor& tensor) { return tensor.clone(); });
}

}  // namespace lockstep::data
