// SPDX-License-Identifier: Apache-2.0
#pragma once

// The transfer engine actor: block copies, in order, a bounded number at a time, beside the steps. It knows
// nothing of sequences; whoever asks holds the blocks until TransferDone comes.

#include "actors/messages.hpp"

namespace spillway::actors {

struct TransferEngineConfig {
  runtime::Address<DecoderMessage> decoder;
  runtime::Address<BlockManagerMessage> block_manager;
  std::uint32_t copies_in_flight_max = 8;
};

runtime::Task<void> transfer_engine(runtime::ActorContext<TransferEngineMessage>& self,
                                    TransferEngineConfig config);

}  // namespace spillway::actors
