// SPDX-License-Identifier: BSD-3-Clause
// Step 6 of a sample's path: the sample becomes a row of its batch, or a part of it. Workers use
// this, and workers(0) too.
#include "data/samples/sample_layout.h"

#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cstring>
#include <sstream>
#include <utility>

#include "data/samples/tree_path.h"

namespace lockstep::data {
namespace {

constexpr std::size_t kLine = 64;
constexpr std::size_t kLargestBatch = std::size_t{1} << 46;

std::size_t round_up(std::size_t bytes) {
  return (bytes + kLine - 1) / kLine * kLine;
}

// Names of the parts of an Example, which is a list of two.
std::string part_name(std::size_t number, std::size_t count) {
  if (count == 2) return number == 0 ? "data" : "target";
  return std::to_string(number);
}

SampleLayout::Kind kind_of(const SampleTree& value) {
  using Kind = SampleLayout::Kind;
  if (value.is_tensor()) return Kind::Tensor;
  if (value.is_string()) return Kind::String;
  if (value.is_bytes()) return Kind::Raw;
  if (value.is_list()) return Kind::List;
  if (value.is_map()) return Kind::Map;
  return Kind::Nothing;
}

// Calls `leaf` for each leaf and makes the tree above them.
template <class Leaf>
SampleLayout make(const SampleTree& value, const std::string& where, const Leaf& leaf) {
  SampleLayout layout;
  layout.kind = kind_of(value);
  if (layout.kind == SampleLayout::Kind::List) {
    const auto& list = value.list();
    for (std::size_t child = 0; child < list.size(); ++child) {
      layout.children.push_back(
          make(list[child], path_below(where, part_name(child, list.size())), leaf));
    }
  } else if (layout.kind == SampleLayout::Kind::Map) {
    for (const auto& [key, child] : value.map()) {
      layout.keys.push_back(key);
      layout.children.push_back(make(child, path_below(where, key), leaf));
    }
  } else {
    leaf(value, layout, where);
  }
  return layout;
}

void copy_tensor(const at::Tensor& tensor, const TensorLayout& layout, std::size_t bytes,
                 std::byte* place) {
  if (bytes == 0) return;
  if (tensor.is_contiguous() && !tensor.is_conj() && !tensor.is_neg()) {
    std::memcpy(place, tensor.const_data_ptr(), bytes);
  } else {
    at::from_blob(place, layout.shape(), at::TensorOptions(layout.dtype())).copy_(tensor.detach());
  }
}

[[noreturn]] void refuse_row(const SampleTree& sample, const SampleLayout& layout,
                             const std::string& where) {
  TORCH_CHECK(false, name_of_part(where), " is ", sample.describe(),
              "; in the first sample it was ", layout.describe(),
              ", and samples must be alike to be stacked (or give the loader a collate function)");
}

void write_row_at(const SampleTree& sample, const SampleLayout& layout, std::byte* memory,
                  std::size_t row, const std::string& where) {
  using Kind = SampleLayout::Kind;
  if (kind_of(sample) != layout.kind) refuse_row(sample, layout, where);
  if (layout.kind == Kind::Tensor) {
    const auto tensor = sample.tensor();
    const bool is_alike =
        tensor.sizes() == layout.tensor.shape() && tensor.scalar_type() == layout.tensor.dtype();
    if (!is_alike) refuse_row(sample, layout, where);
    static_cast<void>(TensorLayout::of(tensor, where));
    copy_tensor(tensor, layout.tensor, layout.bytes, memory + layout.offset + row * layout.bytes);
  } else if (layout.kind == Kind::List) {
    const auto& list = sample.list();
    const auto count = list.size();
    if (count != layout.children.size()) refuse_row(sample, layout, where);
    for (std::size_t child = 0; child < count; ++child) {
      write_row_at(list[child], layout.children[child], memory, row,
                   path_below(where, part_name(child, count)));
    }
  } else if (layout.kind == Kind::Map) {
    const auto& map = sample.map();
    if (map.size() != layout.keys.size()) refuse_row(sample, layout, where);
    for (std::size_t child = 0; child < layout.keys.size(); ++child) {
      const auto found = map.find(layout.keys[child]);
      if (found == map.end()) refuse_row(sample, layout, where);
      write_row_at(found->second, layout.children[child], memory, row,
                   path_below(where, layout.keys[child]));
    }
  }
}

template <class Leaf>
SampleTree read(const SampleLayout& layout, const Leaf& leaf) {
  if (layout.kind == SampleLayout::Kind::List) {
    SampleTree::List list;
    list.reserve(layout.children.size());
    for (const auto& child : layout.children) list.push_back(read(child, leaf));
    return list;
  }
  if (layout.kind == SampleLayout::Kind::Map) {
    SampleTree::Map map;
    for (std::size_t child = 0; child < layout.children.size(); ++child) {
      map.emplace(layout.keys[child], read(layout.children[child], leaf));
    }
    return map;
  }
  return leaf(layout);
}

}  // namespace

TensorLayout TensorLayout::of(const at::Tensor& tensor, const std::string& name) {
  TORCH_CHECK(tensor.layout() == at::kStrided && tensor.device().is_cpu() && !tensor.is_quantized(),
              name_of_part(name), " is a ", tensor.toString(),
              "; it must be a dense tensor on the CPU");
  const auto dimensions = static_cast<std::size_t>(tensor.dim());
  TORCH_CHECK(dimensions <= kMaxDimensions, name_of_part(name), " has ", dimensions,
              " dimensions; at most ", kMaxDimensions, " are possible");
  TensorLayout layout;
  layout.scalar_type = static_cast<std::int32_t>(tensor.scalar_type());
  layout.dimensions = static_cast<std::uint32_t>(dimensions);
  std::copy(tensor.sizes().begin(), tensor.sizes().end(), layout.sizes.begin());
  return layout;
}

std::size_t TensorLayout::bytes() const {
  std::size_t result = c10::elementSize(dtype());
  for (const auto size : shape()) result *= static_cast<std::size_t>(size);  // a real tensor had it
  return result;
}

SampleLayout SampleLayout::of_rows(const SampleTree& sample, std::size_t rows, std::size_t& total) {
  total = 0;
  auto layout =
      make(sample, "", [&](const SampleTree& value, SampleLayout& leaf, const std::string& where) {
        TORCH_CHECK(!value.is_string() && !value.is_bytes(), name_of_part(where), " is ",
                    value.describe(), ", which has no rows");
        if (!value.is_tensor()) return;
        leaf.tensor = TensorLayout::of(value.tensor(), where);
        leaf.bytes = leaf.tensor.bytes();
        leaf.offset = total;
        TORCH_CHECK(leaf.bytes == 0 || rows <= (kLargestBatch - total) / leaf.bytes, "a batch of ",
                    rows, " samples of ", leaf.bytes, " bytes is too large");
        total = round_up(total + leaf.bytes * rows);
      });
  const bool has_something = kind_of(sample) != Kind::Nothing &&
                             (layout.kind != Kind::List || layout.children.size() != 2 ||
                              layout.children[0].kind != Kind::Nothing);
  TORCH_CHECK(has_something, "the sample's data is an undefined tensor");
  total = std::max<std::size_t>(total, 1);
  return layout;
}

SampleLayout SampleLayout::of_whole(const SampleTree& value, std::size_t& total) {
  total = 0;
  return make(value, "", [&](const SampleTree& part, SampleLayout& leaf, const std::string& where) {
    if (part.is_tensor()) {
      leaf.tensor = TensorLayout::of(part.tensor(), where);
      leaf.bytes = leaf.tensor.bytes();
    } else if (part.is_string()) {
      leaf.bytes = part.string().size();
    } else if (part.is_bytes()) {
      leaf.bytes = part.bytes().size();
    }
    TORCH_CHECK(leaf.bytes <= kLargestBatch - total, "the batch is too large");
    leaf.offset = total;
    total = round_up(total + leaf.bytes);
  });
}

std::string SampleLayout::describe() const {
  std::ostringstream text;
  if (kind == Kind::Tensor) {
    text << tensor.dtype() << ' ' << tensor.shape();
  } else if (kind == Kind::List) {
    text << "a list of " << children.size();
  } else if (kind == Kind::Map) {
    text << "a map with";
    for (const auto& key : keys) text << " '" << key << "'";
  } else {
    text << (kind == Kind::String ? "a string" : kind == Kind::Raw ? "bytes" : "nothing");
  }
  return std::move(text).str();
}

void write_row(const SampleTree& sample, const SampleLayout& layout, std::byte* memory,
               std::size_t row) {
  write_row_at(sample, layout, memory, row, "");
}

void write_whole(const SampleTree& value, const SampleLayout& layout, std::byte* memory) {
  using Kind = SampleLayout::Kind;
  std::byte* place = memory + layout.offset;
  if (layout.kind == Kind::Tensor) copy_tensor(value.tensor(), layout.tensor, layout.bytes, place);
  if (layout.kind == Kind::String) std::memcpy(place, value.string().data(), layout.bytes);
  if (layout.kind == Kind::Raw && layout.bytes != 0) {
    std::memcpy(place, value.bytes().data(), layout.bytes);
  }
  for (std::size_t child = 0; child < layout.children.size(); ++child) {
    write_whole(layout.kind == Kind::Map ? value[layout.keys[child]] : value[child],
                layout.children[child], memory);
  }
}

SampleTree read_rows(const SampleLayout& layout, std::byte* memory, std::size_t rows,
                     const MakeTensor& make) {
  return read(layout, [&](const SampleLayout& leaf) -> SampleTree {
    if (leaf.kind != SampleLayout::Kind::Tensor) return {};
    at::DimVector sizes{static_cast<std::int64_t>(rows)};
    sizes.append(leaf.tensor.shape().begin(), leaf.tensor.shape().end());
    return make(memory + leaf.offset, sizes, leaf.tensor.dtype());
  });
}

SampleTree read_whole(const SampleLayout& layout, std::byte* memory, const MakeTensor& make) {
  return read(layout, [&](const SampleLayout& leaf) -> SampleTree {
    std::byte* place = memory + leaf.offset;
    if (leaf.kind == SampleLayout::Kind::Tensor) {
      return make(place, leaf.tensor.shape(), leaf.tensor.dtype());
    }
    if (leaf.kind == SampleLayout::Kind::String) {
      return std::string(reinterpret_cast<const char*>(place), leaf.bytes);
    }
    if (leaf.kind == SampleLayout::Kind::Raw) return Bytes(place, place + leaf.bytes);
    return {};
  });
}

}  // namespace lockstep::data
