// SPDX-License-Identifier: BSD-3-Clause
#include "data/samples/tree_codec.h"

#include <c10/util/Exception.h>

#include <cstdint>
#include <cstring>

namespace lockstep::data::detail {
namespace {

constexpr std::size_t kLine = 64;

// How the memory begins; the structure, then the leaves follow.
struct TreeHeader {
  std::uint64_t structure_bytes = 0;
  std::uint64_t leaves_offset = 0;
  std::uint64_t leaves_bytes = 0;
};

}  // namespace

TreeCodec::TreeCodec(const SampleTree& tree)
    : tree_(tree),
      layout_(SampleLayout::of_whole(tree, leaves_bytes_)),
      structure_(layout_.to_bytes()),
      leaves_offset_((sizeof(TreeHeader) + structure_.size() + kLine - 1) / kLine * kLine) {}

void TreeCodec::write(std::byte* memory) const {
  const TreeHeader header{structure_.size(), leaves_offset_, leaves_bytes_};
  std::memcpy(memory, &header, sizeof(header));
  std::memcpy(memory + sizeof(header), structure_.data(), structure_.size());
  write_whole(tree_, layout_, memory + leaves_offset_);
}

SampleTree TreeCodec::read(std::byte* memory, std::size_t bytes, const MakeTensor& make) {
  TreeHeader header;
  std::memcpy(&header, memory, sizeof(header));
  TORCH_CHECK(header.leaves_offset >= sizeof(header) && header.leaves_offset <= bytes &&
                  header.leaves_bytes <= bytes - header.leaves_offset &&
                  header.structure_bytes <= header.leaves_offset - sizeof(header),
              "DataLoader: what a worker wrote does not fit its memory");
  const auto layout = SampleLayout::from_bytes({memory + sizeof(header), header.structure_bytes},
                                               header.leaves_bytes);
  return read_whole(layout, memory + header.leaves_offset, make);
}

}  // namespace lockstep::data::detail
