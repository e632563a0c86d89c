// SPDX-License-Identifier: BSD-3-Clause
#include "data/samples/value_bytes.h"

#include <c10/util/Exception.h>

#include <cstdint>
#include <cstring>

namespace lockstep::data::detail {
namespace {

constexpr std::size_t kLine = 64;

// How the memory begins; the form, then the leaves follow.
struct ValueHeader {
  std::uint64_t form_bytes = 0;
  std::uint64_t leaves_offset = 0;
  std::uint64_t leaves_bytes = 0;
};

}  // namespace

ValueBytes::ValueBytes(const Value& value)
    : value_(value),
      layout_(ValueLayout::of_whole(value, leaves_bytes_)),
      form_(layout_.to_bytes()),
      leaves_offset_((sizeof(ValueHeader) + form_.size() + kLine - 1) / kLine * kLine) {}

void ValueBytes::write(std::byte* memory) const {
  const ValueHeader header{form_.size(), leaves_offset_, leaves_bytes_};
  std::memcpy(memory, &header, sizeof(header));
  std::memcpy(memory + sizeof(header), form_.data(), form_.size());
  write_whole(value_, layout_, memory + leaves_offset_);
}

Value ValueBytes::read(std::byte* memory, std::size_t bytes, const MakeTensor& make) {
  ValueHeader header;
  std::memcpy(&header, memory, sizeof(header));
  TORCH_CHECK(header.leaves_offset >= sizeof(header) && header.leaves_offset <= bytes &&
                  header.leaves_bytes <= bytes - header.leaves_offset &&
                  header.form_bytes <= header.leaves_offset - sizeof(header),
              "DataLoader: what a worker wrote does not fit its memory");
  const auto layout =
      ValueLayout::from_bytes({memory + sizeof(header), header.form_bytes}, header.leaves_bytes);
  return read_whole(layout, memory + header.leaves_offset, make);
}

}  // namespace lockstep::data::detail
