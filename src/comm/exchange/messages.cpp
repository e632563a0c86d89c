// SPDX-License-Identifier: BSD-3-Clause
#include <utility>

#include "comm/collective/message.h"
#include "comm/exchange/backoff.h"
#include "comm/exchange/operations.h"

namespace lockstep {
namespace {

class ExchangeMessage final : public Operation {
 public:
  ExchangeMessage(Transport& transport, at::Tensor tensor, int peer, int tag, bool is_sent)
      : transport_(transport),
        tensor_(std::move(tensor)),
        header_(MessageHeader::of(tensor_, tag)),
        peer_(peer),
        is_sent_(is_sent) {}

  bool try_start(bool) override {
    if (!request_) {
      request_ = is_sent_ ? transport_.send(tensor_, header_, peer_)
                          : transport_.receive(tensor_, header_, peer_);
    }
    return true;
  }
  bool try_finish() override { return request_->is_done(); }
  void sleep(std::chrono::nanoseconds limit) override { transport_.sleep(limit, backoff_); }
  void check_peers() override { transport_.check_peers(); }

  [[nodiscard]] std::string describe_missing() const override {
    const std::string peer = transport_.name_of(peer_);
    if (!is_sent_) return peer + " has not sent " + describe(header_);
    return peer + " does not receive; " + describe(header_) + " waits for it";
  }

 private:
  Transport& transport_;
  at::Tensor tensor_;
  MessageHeader header_;
  int peer_;
  bool is_sent_;
  std::unique_ptr<TransportRequest> request_;
  Backoff backoff_;
};

}  // namespace

std::unique_ptr<Operation> make_exchange_send(Transport& transport, at::Tensor tensor, int to,
                                              int tag) {
  return std::make_unique<ExchangeMessage>(transport, std::move(tensor), to, tag, true);
}

std::unique_ptr<Operation> make_exchange_receive(Transport& transport, at::Tensor tensor, int from,
                                                 int tag) {
  return std::make_unique<ExchangeMessage>(transport, std::move(tensor), from, tag, false);
}

}  // namespace lockstep
