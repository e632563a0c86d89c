// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <lockstep/comm/mesh.h>
#include <lockstep/core/error.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <set>
#include <utility>

#include "comm/collective/fingerprint.h"
#include "comm/group/group_core.h"

namespace lockstep {
namespace {

using Dimensions = std::vector<Mesh::Dimension>;

/// {"stage": 2, "data": 3}
std::string text_of(const Dimensions& dimensions) {
  std::string text = "{";
  for (const auto& [name, size] : dimensions) {
    if (text.size() > 1) text += ", ";
    text += '"';
    text += name;
    text += "\": ";
    text += std::to_string(size);
  }
  text += '}';
  return text;
}

ProcessGroup& not_null(const std::shared_ptr<ProcessGroup>& group) {
  TORCH_CHECK(group != nullptr, "Mesh: the process group is null");
  return *group;
}

/// The texts of all ranks, of which the longest has `longest` bytes. Collective.
std::vector<std::string> gather_texts(ProcessGroup& group, const std::string& own,
                                      std::int64_t longest) {
  const auto input = at::zeros({longest}, at::kByte);
  std::copy(own.begin(), own.end(), input.mutable_data_ptr<std::uint8_t>());
  const auto all = at::empty({group.size(), longest}, at::kByte);
  group.all_gather(all, input).wait();
  std::vector<std::string> texts;
  for (int rank = 0; rank < group.size(); ++rank) {
    const auto* begin = all.const_data_ptr<std::uint8_t>() + rank * longest;
    texts.emplace_back(begin, std::find(begin, begin + longest, std::uint8_t{0}));
  }
  return texts;
}

/// A rank that threw because of its own dimensions would leave the others waiting, so that all
/// ranks compare theirs before anything else. Collective.
void check_same_mesh(ProcessGroup& group, const std::string& text) {
  const auto scope = group.with(CallOptions().name("mesh"));
  const auto own =
      at::tensor({static_cast<std::int64_t>(hash_of(text)), static_cast<std::int64_t>(text.size())},
                 at::kLong);
  const auto all = at::empty({group.size(), 2}, at::kLong);
  group.all_gather(all, own).wait();
  const auto* numbers = all.const_data_ptr<std::int64_t>();
  std::int64_t longest = 0;
  bool is_same = true;
  for (int rank = 0; rank < group.size(); ++rank) {
    is_same = is_same && numbers[2 * rank] == numbers[0] && numbers[2 * rank + 1] == numbers[1];
    longest = std::max(longest, numbers[2 * rank + 1]);
  }
  if (is_same) return;
  const auto texts = gather_texts(group, text, longest);
  const auto other = std::find_if(texts.begin(), texts.end(),
                                  [&](const std::string& each) { return each != texts[0]; });
  std::string reason = "rank ";
  reason += std::to_string(other - texts.begin());
  reason += " made the mesh ";
  reason += other == texts.end() ? text : *other;
  reason += ", rank 0 made ";
  reason += texts[0];
  throw MismatchError(group.core().context_for("mesh"), reason,
                      "all ranks must give the same names and sizes in the same order");
}

void check_dimensions(const Dimensions& dimensions, int ranks) {
  const std::string text = text_of(dimensions);
  TORCH_CHECK(!dimensions.empty(),
              "Mesh: there are no dimensions; give at least one name and size");
  std::set<std::string> names;
  std::int64_t product = 1;
  for (const auto& [name, size] : dimensions) {
    TORCH_CHECK(!name.empty(), "Mesh: a name in ", text, " is empty; each dimension needs one");
    TORCH_CHECK(names.insert(name).second, "Mesh: the name '", name, "' stands twice in ", text);
    TORCH_CHECK(size >= 1, "Mesh: the size of '", name, "' is ", size, "; it must be 1 or more");
    // Beyond the number of ranks, the product is wrong, whatever comes.
    product = std::min<std::int64_t>(product * size, std::int64_t{1} << 31);
  }
  TORCH_CHECK(product == ranks, "Mesh: the sizes in ", text,
              " do not fit the group: their product must be its number of ranks, ", ranks);
}

}  // namespace

Mesh::Mesh(const std::shared_ptr<ProcessGroup>& group, std::vector<Dimension> dimensions)
    : Mesh(not_null(group), std::move(dimensions)) {}

Mesh::Mesh(ProcessGroup& group, std::vector<Dimension> dimensions) {
  check_same_mesh(group, text_of(dimensions));
  check_dimensions(dimensions, group.size());
  int stride = group.size();  // between neighbours along the dimension
  for (auto& dimension : dimensions) {
    const int around = stride;
    stride /= dimension.size;
    const int index = group.rank() % around / stride;
    // The lowest rank of those that differ in this dimension alone.
    const int color = group.rank() - index * stride;
    axes_.push_back({std::move(dimension), index, group.split(color, index)});
  }
}

const std::shared_ptr<ProcessGroup>& Mesh::group(const std::string& name) const {
  return axis(name).group;
}

int Mesh::index(const std::string& name) const {
  return axis(name).index;
}

int Mesh::size(const std::string& name) const {
  return axis(name).dimension.size;
}

std::vector<std::string> Mesh::names() const {
  std::vector<std::string> names;
  for (const Axis& axis : axes_) names.push_back(axis.dimension.name);
  return names;
}

void Mesh::close() {
  std::exception_ptr first;
  for (const Axis& axis : axes_) {
    try {
      axis.group->close();
    } catch (...) {
      if (!first) first = std::current_exception();
    }
  }
  if (first) std::rethrow_exception(first);
}

const Mesh::Axis& Mesh::axis(const std::string& name) const {
  const auto found = std::find_if(axes_.begin(), axes_.end(),
                                  [&](const Axis& axis) { return axis.dimension.name == name; });
  if (found != axes_.end()) return *found;
  std::string all;
  for (const Axis& axis : axes_) {
    if (!all.empty()) all += ", ";
    all += axis.dimension.name;
  }
  TORCH_CHECK(false, "Mesh: there is no dimension '", name, "'; this mesh has ", all);
}

}  // namespace lockstep
