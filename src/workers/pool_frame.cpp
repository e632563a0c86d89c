// SPDX-License-Identifier: BSD-3-Clause
#include "workers/pool_frame.h"

#include <cstring>

namespace lockstep::workers {

struct PoolFrame::Header {
  std::uint64_t entries = 0;
  std::uint64_t bytes = 0;
  std::uint64_t data_bytes = 0;

  [[nodiscard]] std::size_t data_offset() const {
    const auto end = sizeof(Header) + entries * sizeof(std::uint32_t) + bytes;
    constexpr auto kLine = PayloadWriter::kAlignment;
    return static_cast<std::size_t>(end + kLine - 1) / kLine * kLine;
  }
  [[nodiscard]] static Header of(const PayloadWriter& payload) {
    return {payload.blocks().size(), payload.bytes().size(), payload.data_bytes()};
  }
};

std::size_t PoolFrame::bytes_for(const PayloadWriter& payload) {
  const auto header = Header::of(payload);
  return header.data_offset() + payload.data_bytes();
}

void PoolFrame::write(const PayloadWriter& payload, std::byte* to) {
  const auto header = Header::of(payload);
  std::memcpy(to, &header, sizeof(header));
  auto* next = to + sizeof(header);
  for (const auto& block : payload.blocks()) {
    const std::uint32_t entry = block->entry.value();
    std::memcpy(next, &entry, sizeof(entry));
    next += sizeof(entry);
  }
  std::memcpy(next, payload.bytes().data(), payload.bytes().size());
  auto* data = to + header.data_offset();
  for (const auto& part : payload.parts()) {
    if (part.bytes != 0) std::memcpy(data + part.offset, part.data, part.bytes);
  }
}

PoolFrame::PoolFrame(std::byte* from) {
  Header header;
  std::memcpy(&header, from, sizeof(header));
  entries_.resize(static_cast<std::size_t>(header.entries));
  const auto* next = from + sizeof(header);
  if (!entries_.empty()) {
    std::memcpy(entries_.data(), next, entries_.size() * sizeof(std::uint32_t));
  }
  next += entries_.size() * sizeof(std::uint32_t);
  bytes_ = {reinterpret_cast<const char*>(next), static_cast<std::size_t>(header.bytes)};
  data_ = from + header.data_offset();
  size_ = header.data_offset() + static_cast<std::size_t>(header.data_bytes);
}

}  // namespace lockstep::workers
