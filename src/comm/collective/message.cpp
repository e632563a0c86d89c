// SPDX-License-Identifier: BSD-3-Clause
#include "comm/collective/message.h"

#include <sstream>

#include "comm/collective/operation.h"

namespace lockstep {

MessageHeader MessageHeader::of(const at::Tensor& tensor, int tag) {
  MessageHeader header;
  header.bytes = tensor.nbytes();
  header.tag = tag;
  header.dtype = static_cast<std::uint8_t>(tensor.scalar_type());
  return header;
}

std::string describe(const MessageHeader& header) {
  const auto dtype = static_cast<at::ScalarType>(header.dtype);
  std::ostringstream text;
  text << "a message of " << header.bytes / c10::elementSize(dtype) << " x " << dtype
       << " with tag " << header.tag;
  return std::move(text).str();
}

void check_message(const MessageHeader& sent, const MessageHeader& expected, int from) {
  if (sent.bytes == expected.bytes && sent.dtype == expected.dtype) return;
  throw OperationFailure{OperationFailure::Kind::Mismatch,
                         "rank " + std::to_string(from) + " sent " + describe(sent) +
                             ", this rank expects " + describe(expected),
                         "both must have the same dtype and number of elements"};
}

}  // namespace lockstep
