// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <thread>

namespace lockstep::pipeline {

class StageLink;

/// While it lives, a thread sends what is left to send, on backends that move messages only while a
/// rank is in a call of the group.
///
/// A stage may contain collectives, in which this rank waits for other replicas of the stage. These
/// may wait, through their neighbours, for what this rank has sent only in part. Where nothing is
/// left to send, there is no thread. Thread-safety: nobody else uses the links meanwhile.
class SendingThread {
 public:
  SendingThread(StageLink& one, StageLink& other);

 private:
  std::jthread thread_;
};

}  // namespace lockstep::pipeline
